r"""Cross-entropy over target tokens, for adapters that know their models: all of the protocol but the forward.

The outputs are y = (logits,), classes on the LAST axis, or y = (hidden, weight) or (hidden, weight, bias) of a linear
head, whose logits :math:`z = \kappa\tanh(\sigma(hW^\top + b)/\kappa)` are never held.
"""

from __future__ import annotations

from typing import Any, Self

from attrs import Factory, evolve, field, frozen
from torch import Tensor, nn

from curvkit_core.kernels import Kernels
from curvkit_core.kernels.linear_ce_options import CHUNK_BYTES
from curvkit_core.losses.cross_entropy import CrossEntropyLoss
from curvkit_core.losses.linear_cross_entropy import LinearCrossEntropyLoss
from curvkit_core.losses.protocol import Outputs, Uniforms

__all__ = ["TokenCrossEntropy"]


@frozen(eq=False, kw_only=True)
class TokenCrossEntropy:
    r"""The mean over target tokens that count, :math:`\sum_i -\log p_{i,y_i} / N`; a subclass runs the model.

    A subclass defines ``outputs(model, batch)`` and ``targets(batch)``. How many tensors `outputs` hands over decides
    how the loss computes, not what: one is logits (..., V), two or three are a linear head's hidden states (..., D),
    weight (V, D) and bias (V,). To shift targets against inputs, shift the targets and let the last one be ignored: a
    slice of the logits would be copied.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    softcap : float, positive, or None
        kappa of a linear head; logits that are handed over have it in them.
    logit_scale : float
        sigma of a linear head; logits that are handed over have it in them.
    chunk_bytes : int
        Bound on the (rows, V) tensors of a chunk of a linear head's rows, together.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a target that is not ignored. The Gauss-Newton matrix's split is at the logits in both forms, so it is the
    same matrix.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    chunk_bytes: int = CHUNK_BYTES
    kernels: Kernels = Factory(Kernels)
    _of_logits: CrossEntropyLoss = field(init=False, repr=False)
    _of_head: LinearCrossEntropyLoss = field(init=False, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits, or a linear head's hidden states, weight and bias, at every position that has a target."""
        msg = f"{type(self).__name__} has no outputs(model, batch): a subclass of TokenCrossEntropy runs its own model."
        raise NotImplementedError(msg)

    def targets(self, batch: Any) -> Tensor:
        """Class indices, shaped like the outputs without their last axis."""
        msg = f"{type(self).__name__} has no targets(batch): a subclass of TokenCrossEntropy reads its own batches."
        raise NotImplementedError(msg)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Sum of the targets' losses."""
        loss, rows, pair = self._part(y, batch)
        return loss.loss_sum(rows, pair)

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss a target that is not ignored, in the order of the flattened targets."""
        loss, rows, pair = self._part(y, batch)
        return loss.unit_losses(rows, pair)

    def num_units(self, batch: Any) -> float | Tensor:
        """Targets that are not ignored."""
        return (self.targets(batch) != self.ignore_index).sum()

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """H_z dy at the logits, or K^T H_z K dy of a linear head: exact, positive semidefinite."""
        loss, rows, pair = self._part(y, batch)
        return _shaped(loss.ggn(rows, pair, _flat(dy, y)), dy)

    def unit_outer(self, y: Outputs, batch: Any, dy: Outputs, targets: Tensor | None = None) -> Outputs:
        """The sum over units of r <r, dy>, r the gradient in y of the unit's loss, or of its drawn target's."""
        loss, rows, pair = self._part(y, batch)
        return _shaped(loss.unit_outer(rows, pair, _flat(dy, y), targets), dy)

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """A class for each target that is not ignored, drawn from its row's softmax: shape (U,)."""
        loss, rows, pair = self._part(y, batch)
        return loss.sample_targets(rows, pair, uniforms)

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        """-log p of the drawn class: shape (U,)."""
        loss, rows, pair = self._part(y, batch)
        return loss.sampled_losses(rows, pair, targets)

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss with the problem's kernels."""
        return evolve(self, kernels=kernels)

    @_of_logits.default
    def _make_of_logits(self) -> CrossEntropyLoss:
        return CrossEntropyLoss(
            ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, kernels=self.kernels
        )

    @_of_head.default
    def _make_of_head(self) -> LinearCrossEntropyLoss:
        return LinearCrossEntropyLoss(
            "",  # the forward is the subclass's
            "",
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            chunk_bytes=self.chunk_bytes,
            kernels=self.kernels,
        )

    def _part(
        self, y: Outputs, batch: Any
    ) -> tuple[CrossEntropyLoss | LinearCrossEntropyLoss, Outputs, tuple[None, Tensor]]:
        """The loss for this many outputs, with rows of them, and what it reads as a batch."""
        target, lead = self.targets(batch), y[0].shape[:-1]
        if target.shape != lead:
            msg = f"targets have shape {tuple(target.shape)}, outputs {tuple(y[0].shape)}: expected {tuple(lead)}."
            raise ValueError(msg)
        loss = self._of_logits if len(y) == 1 else self._of_head
        # a model that is spread over devices has its outputs on the last of them
        return loss, (y[0].reshape(-1, y[0].shape[-1]), *y[1:]), (None, target.reshape(-1).to(y[0].device))


def _flat(dy: Outputs, y: Outputs) -> Outputs:
    """Directions with the first one's positions as rows; a leading axis k is kept."""
    lead = dy[0].shape[: dy[0].ndim - y[0].ndim]
    return (dy[0].reshape(*lead, -1, dy[0].shape[-1]), *dy[1:])


def _shaped(parts: Outputs, dy: Outputs) -> Outputs:
    return tuple(part.reshape(d.shape) for part, d in zip(parts, dy, strict=True))
