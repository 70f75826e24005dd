"""Cross-entropy of a label a token."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

from attrs import frozen
from torch import Tensor, nn

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_hf.batch_fields import check_targets, labels_of, model_inputs
from curvkit_hf.checked_inputs import check_inputs
from curvkit_hf.inner_model import call_for_logits
from curvkit_hf.second_derivatives import twice_differentiable
from curvkit_hf.unusable import refuse_unusable

__all__ = ["TokenClassificationLoss"]


@frozen(eq=False, kw_only=True)
class TokenClassificationLoss(TokenCrossEntropy):
    r"""The mean over labelled tokens, :math:`\sum_t -\log p_{t,y_t} / N`, of models ``*ForTokenClassification``.

    Equals the model's own ``.loss`` on one batch.

    Parameters
    ----------
    ignore_index : int
        Labels that do not count: of special tokens, of padding, of a word's later pieces.
    label_smoothing : float, 0 to 1
        Share of a target's mass that is spread over the labels.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a label that is not ignored. The logits are held: there are few labels.
    """

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (B, T, C)."""
        inputs = model_inputs(batch)
        check_inputs(model, inputs)
        logits = call_for_logits(model, inputs)
        check_targets(self.targets(batch), logits.shape[-1], self.ignore_index, type(self).__name__)
        return (logits,)

    def targets(self, batch: Any) -> Tensor:
        """The batch's labels (B, T)."""
        return labels_of(batch, type(self).__name__)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """Refuse models whose curvature cannot be had."""
        refuse_unusable(model)
        return self, ()

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Eager attention and experts in the place of fused ones."""
        return twice_differentiable(model)
