"""One forward of a problem's model at given parameter values: the only place that calls it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_core.backends import HoldsShards
from curvkit_core.linearize.embedding_tables import plain_tables
from curvkit_core.linearize.second_order_mode import no_fast_path, second_order_mode
from curvkit_core.linearize.twice_differentiable import twice_differentiable
from curvkit_core.linearize.uncompiled import uncompiled
from curvkit_core.losses.batch_tree import map_tensors
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Problem
from curvkit_core.problem.swap import Swap

__all__ = ["Forward"]


class Forward:
    """The model at given values, for one forward and the backward passes that follow it.

    Parameters
    ----------
    problem : Problem
    values : mapping of Parameter to Tensor
        What stands in the parameters' places; the others are constants.
    second_order : bool
        Whether the forward is differentiated twice, or in forward mode: fused attention is replaced then.
    dtype : torch.dtype or None
        Compute in this dtype where the model's own has fewer bits: parameters, buffers and inputs are widened copies.
    """

    def __init__(
        self,
        problem: Problem,
        values: Mapping[nn.Parameter, Tensor],
        *,
        second_order: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.problem = problem
        self.second_order = second_order
        self.dtype = dtype
        self._swap = Swap(problem.model, values, dtype=dtype)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the values in: around the forward, and around every backward, which may recompute (checkpointing)."""
        with (
            second_order_mode(self.problem.model, self.problem.loss) if self.second_order else nullcontext(),
            plain_tables(self.problem.model),
            twice_differentiable(self.problem.model),
            uncompiled(),
            no_fast_path(),
            self._swap.installed(),
        ):
            yield

    def run(self, batch: Any) -> Outputs:
        """Call the loss adapter's ``outputs``; inside :meth:`opened`."""
        if self.dtype is not None:
            wide = self.dtype
            batch = map_tensors(
                lambda t: t.to(torch.promote_types(t.dtype, wide)) if t.is_floating_point() else t, batch
            )
        context = self.problem.forward_context if self.problem.forward_context is not None else nullcontext
        backend = self.problem.backend
        with backend.forward(self.problem.model) if isinstance(backend, HoldsShards) else nullcontext(), context():
            outputs = self.problem.loss.outputs(self.problem.model, batch)
        if not isinstance(outputs, tuple):
            msg = (
                f"{type(self.problem.loss).__name__}.outputs gave a {type(outputs).__name__}: "
                "expected a tuple of tensors, for instance (logits,)."
            )
            raise TypeError(msg)
        return outputs
