r"""Softmax cross-entropy of a linear head, from hidden states: the logits are never held.

The outputs are y = (hidden, weight, bias), the logits :math:`z = \kappa\tanh(\sigma(hW^\top + b)/\kappa)`, and
everything else is as in :class:`curvkit_core.CrossEntropyLoss` on them: units, masses, and the Gauss-Newton matrix,
whose split stays at the logits, :math:`K^\top H_z K` with K their Jacobian in y.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, Self

import torch
from attrs import Factory, evolve, field, frozen
from torch import Tensor, nn

from curvkit_core.kernels import Kernels, LinearCeOptions, differentiable_losses
from curvkit_core.kernels.linear_ce import as_rows
from curvkit_core.kernels.linear_ce_chunked import HeadInputs, map_logits
from curvkit_core.kernels.linear_ce_options import CHUNK_BYTES, read_targets
from curvkit_core.losses.batch_layout import BatchLayout
from curvkit_core.losses.drawing import draw_classes
from curvkit_core.losses.protocol import Outputs, Uniforms
from curvkit_core.losses.stacking import stacked_columns

__all__ = ["LinearCrossEntropyLoss"]

Body = str | Callable[..., Any]
Head = str | Callable[[nn.Module], Tensor | tuple[Tensor, Tensor | None]]


@frozen(eq=False)
class LinearCrossEntropyLoss:
    r"""Cross-entropy :math:`\sum_i w_{t_i}(-\log p_{i,t_i}) / \sum_i w_{t_i}` of logits that only a chunk of rows has.

    Equals ``CrossEntropyLoss`` on the model's logits, moved to axis 1, where the model is `head` after `body`: memory
    grows with the hidden states and the head's weight, not with targets times classes. Targets are class indices (N,
    ...), hidden states (N, ..., D). The head's weight is read during the forward, at the values that are differentiated
    there, so tied and parametrised heads need nothing special.

    Parameters
    ----------
    body : str or callable
        What gives the hidden states. A name: the model's submodule or method, called with the batch's inputs, as
        ``"transformer"``. A callable: ``body(model, *inputs)``, as ``MyModel.features``. It returns the tensor, or an
        object with ``.last_hidden_state``.
    head : str or callable
        What makes logits of them. A name: a ``torch.nn.Linear``, or the ``torch.nn.Embedding`` a head is tied to. A
        callable: ``head(model)`` -> weight (V, D), or (weight, bias): for a head with an adapter,
        ``lambda m: m.head.weight + m.up.weight @ m.down.weight``.
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    weight : Tensor, shape (V,), or None
        Class weights. As in torch the divisor is then the targets' total weight.
    softcap : float, positive, or None
        kappa, as in Gemma 2; None: no cap.
    logit_scale : float
        sigma, a factor of the logits, as in Cohere (Granite's logits_scaling is its inverse).
    chunk_bytes : int
        Bound on the (rows, V) tensors of a chunk of rows, together.
    target : str or None
        Key of the target where batches are mappings; None: the first of labels, label, targets, target, y.
    inputs : tuple of str or None
        Keys handed to the body by position; None: all but the target's, by name.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    Not supported: targets that are probabilities, which are as large as the logits; shifting targets against inputs,
    which is the batch's business. Hooks on the head do not run, since its forward does not.
    """

    body: Body
    head: Head
    ignore_index: int = field(default=-100, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)
    weight: Tensor | None = field(default=None, kw_only=True)
    softcap: float | None = field(default=None, kw_only=True)
    logit_scale: float = field(default=1.0, kw_only=True)
    chunk_bytes: int = field(default=CHUNK_BYTES, kw_only=True)
    target: str | None = field(default=None, kw_only=True)
    inputs: tuple[str, ...] | None = field(default=None, kw_only=True)
    kernels: Kernels = field(default=Factory(Kernels), kw_only=True)
    _options: LinearCeOptions = field(init=False, repr=False)
    _layout: BatchLayout = field(init=False, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Hidden states (N, ..., D), the head's weight (V, D), and its bias (V,) where it has one."""
        body = _named(model, self.body, "body") if isinstance(self.body, str) else partial(self.body, model)
        hidden = self._layout.call(body, batch)
        hidden = getattr(hidden, "last_hidden_state", hidden)
        if not isinstance(hidden, Tensor):
            msg = (
                f"body={self.body!r} gave a {type(hidden).__name__}: expected the hidden states, a tensor (N, ..., D), "
                "or an object with .last_hidden_state. Pass a callable body(model, *inputs) that returns them."
            )
            raise TypeError(msg)
        found = (
            _parts_of(_named(model, self.head, "head"), self.head) if isinstance(self.head, str) else (self.head(model))
        )
        weight, bias = found if isinstance(found, tuple) else (found, None)
        return (hidden, weight) if bias is None else (hidden, weight, bias)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Weighted sum of the targets' losses."""
        return self._row_losses(y, batch)[0].sum()

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss a target that is not ignored, in the order of the flattened targets."""
        losses, keep = self._row_losses(y, batch)
        return losses[keep]

    def num_units(self, batch: Any) -> float | Tensor:
        """Targets that are not ignored, each with its class's weight."""
        target = self._layout.target_of(batch)
        keep = target != self.ignore_index
        if self.weight is None:
            return keep.sum()
        return self.weight.to(target.device)[target[keep]].sum()

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """K^T H_z K dy: exact, positive semidefinite; not the Hessian in y, which has more."""
        inputs, target = self._rows(y, batch)
        along = _directions(inputs, y, dy)
        if along == (None, None, None):
            return tuple(torch.zeros_like(d) for d in dy)
        wanted = (True, True, len(y) == 3)
        parts = self.kernels.linear_ce.product(inputs, target, self._options, None, along, wanted, gauss_newton=True)
        return tuple(part.reshape(d.shape) for part, d in zip(parts, dy, strict=True))

    def unit_outer(self, y: Outputs, batch: Any, dy: Outputs, targets: Tensor | None = None) -> Outputs:
        """The sum over units of r <r, dy>, r the gradient in y of the unit's loss, or of its drawn target's."""
        inputs, target = self._rows(y, batch)
        along, options, mass = _directions(inputs, y, dy), self._options, None
        if targets is not None:
            mass = self._masses(inputs, target)
            target, options = self._drawn(target, targets)
        kernel, wanted = self.kernels.linear_ce, (True, True, len(y) == 3)
        rows = []
        for k in range(dy[0].shape[0] if dy[0].ndim > y[0].ndim else 1):
            one = _padded(tuple(None if d is None else d[k] for d in along))
            if one == (None, None, None):
                return tuple(torch.zeros_like(d) for d in dy)
            slopes = kernel.slopes(inputs, target, options, one, None)
            rows.append(kernel.gradient(inputs, target, options, slopes if mass is None else slopes * mass, wanted))
        return tuple(part.reshape(d.shape) for part, d in zip(stacked_columns(rows), dy, strict=True))

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """A class for each target that is not ignored, drawn from its row's softmax: shape (U,)."""
        inputs, target = self._rows(y, batch)
        numbers = uniforms(int((target != self.ignore_index).sum()))[:, 0]

        def draw(logits: Tensor, first: int) -> Tensor:
            return draw_classes(logits, numbers[first : first + len(logits)])

        return map_logits(draw, inputs, target, self._options)

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        r"""sqrt(s) (-log p) of the drawn class, s being the mass of the unit's own target."""
        inputs, target = self._rows(y, batch)
        keep = target != self.ignore_index
        losses = differentiable_losses(self.kernels.linear_ce, inputs, *self._drawn(target, targets))
        return losses[keep] * self._masses(inputs, target)[keep].sqrt()

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss with the problem's kernels."""
        return evolve(self, kernels=kernels)

    @_options.default
    def _read_options(self) -> LinearCeOptions:
        return LinearCeOptions(
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            class_weights=self.weight,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            chunk_bytes=self.chunk_bytes,
        )

    @_layout.default
    def _read_layout(self) -> BatchLayout:
        return BatchLayout(target=self.target, inputs=self.inputs)

    def _rows(self, y: Outputs, batch: Any) -> tuple[HeadInputs, Tensor]:
        """Hidden states as (rows, D) with weight and bias, and targets as (rows,)."""
        hidden, weight, bias = _padded(y)
        assert hidden is not None
        assert weight is not None
        rows, target = as_rows(hidden, weight, bias, self._layout.target_of(batch))
        return (rows, weight, bias), target

    def _masses(self, inputs: HeadInputs, target: Tensor) -> Tensor:
        """s of each row, 0 for an ignored one."""
        assert inputs[0] is not None
        assert inputs[1] is not None
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        read = read_targets(target, inputs[1].shape[0], self._options, wide)
        return torch.where(read.keep, read.mass, 0.0)

    def _drawn(self, target: Tensor, classes: Tensor) -> tuple[Tensor, LinearCeOptions]:
        """Rows' targets with the drawn classes in their places, and the options of a plain likelihood."""
        keep = target != self.ignore_index
        ignored = min(self.ignore_index, -1)  # one that is a class would be a class like others once it is drawn
        drawn = torch.full_like(target, ignored).masked_scatter(keep, classes)
        return drawn, evolve(self._options, label_smoothing=0.0, class_weights=None, ignore_index=ignored)

    def _row_losses(self, y: Outputs, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, target = self._rows(y, batch)
        losses = differentiable_losses(self.kernels.linear_ce, inputs, target, self._options)
        return losses, target != self.ignore_index


def _padded(tensors: tuple[Tensor | None, ...]) -> HeadInputs:
    hidden, weight, *rest = tensors
    return hidden, weight, rest[0] if rest else None


def _directions(inputs: HeadInputs, y: Outputs, dy: Outputs) -> HeadInputs:
    """`dy` by rows of hidden states, with a leading axis k; what is zeros, as of a frozen head, is None: no matmul."""
    lead = dy[0].ndim - y[0].ndim
    hidden, *rest = (d if lead else d[None] for d in dy)
    assert inputs[0] is not None
    flat = (hidden.reshape(hidden.shape[0], *inputs[0].shape), *rest)
    return _padded(tuple(d if bool(d.any()) else None for d in flat))


def _named(model: nn.Module, name: str, what: str) -> Any:
    try:
        return reduce(getattr, name.split("."), model)
    except AttributeError as error:
        known = ", ".join(child for child, _ in model.named_children())
        msg = f"{what}={name!r}: {error}. {type(model).__name__} has the submodules {known}."
        raise ValueError(msg) from None


def _parts_of(module: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a head that is a linear map as torch has it, and nothing more."""
    forward = getattr(type(module), "forward", None)
    if forward not in (nn.Linear.forward, nn.Embedding.forward):
        msg = (
            f"head={name!r} is a {type(module).__name__}, whose forward is its own: expected a torch.nn.Linear or "
            "torch.nn.Embedding. Pass a callable head(model) -> weight, or (weight, bias), that gives what the head "
            "multiplies with."
        )
        raise TypeError(msg)
    return module.weight, getattr(module, "bias", None)
