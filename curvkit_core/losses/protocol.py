"""What a loss adapter is: three methods, and abilities it may add, each a Protocol of its own found by isinstance.

The network hands over a tuple y of graph tensors, and everything else is the loss's own: what a logit, a target, a unit
or a head is. A *unit* is what the risk averages over: an example, or a target token that is not ignored.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from curvkit_core.kernels import Kernels

__all__ = ["ComputesUnitLosses", "GivesGGN", "LossAdapter", "Outputs", "PreparesSecondOrder", "UsesKernels"]

Outputs = tuple[Tensor, ...]


@runtime_checkable
class LossAdapter(Protocol):
    r"""A loss :math:`L = \sum_b \ell(y_b) / \sum_b N_b` over batches b, told in sums."""

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Run the model: y, what the loss is a function of, as graph tensors. ``(logits,)``, as a rule."""
        ...

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """The SUM of the units' losses, a scalar; never a mean."""
        ...

    def num_units(self, batch: Any) -> float | Tensor:
        """What this batch adds to the divisor: one number, on any device."""
        ...


@runtime_checkable
class GivesGGN(Protocol):
    """A loss with a closed form for its own curvature. Needed where y has more than one tensor."""

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """The positive part of loss_sum's curvature at y times dy, each shaped as dy; one leading axis k is allowed."""
        ...


@runtime_checkable
class ComputesUnitLosses(Protocol):
    """A loss that can tell its units apart: the Fishers and the gradients' covariance need it.

    Their products are then J^T J of the units' losses, in O(P) memory: no gradient is formed per unit.
    """

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """Each unit's loss, shape (U,), in batch order, ignored ones left out; their sum is ``loss_sum``."""
        ...


@runtime_checkable
class PreparesSecondOrder(Protocol):
    """A loss that knows how to put its models where second derivatives exist (eager attention, eager experts)."""

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround a forward and its backward passes; the model is as it was afterwards."""
        ...


@runtime_checkable
class UsesKernels(Protocol):
    """A loss whose curvature goes through kernels that the problem chooses."""

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss, computing with `kernels`."""
        ...
