"""Cross-entropy of masked tokens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

from attrs import frozen
from torch import Tensor, nn

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_hf.batch_fields import labels_of, model_inputs
from curvkit_hf.checked_inputs import first_row
from curvkit_hf.language_head import bind_head, language_outputs
from curvkit_hf.second_derivatives import twice_differentiable

__all__ = ["MaskedLMLoss"]


@frozen(eq=False, kw_only=True)
class MaskedLMLoss(TokenCrossEntropy):
    r"""The mean over masked tokens, :math:`\sum_t -\log p(x_t \mid \text{the row around it}) / N`, of ``*ForMaskedLM``.

    Equals the model's own ``.loss`` on one batch. Only the positions that count go through the head.

    Parameters
    ----------
    ignore_index : int
        Labels that do not count: of the tokens that are given.
    label_smoothing : float, 0 to 1
        Share of a target's mass that is spread over the vocabulary.
    chunk_bytes : int
        Bound on the (rows, V) tensors that exist at a time, together.
    head : str or None
        The linear head's name in the model, once a problem has found it; None: logits are computed and held.
    softcap, logit_scale : float
        Of that head.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a label that is not ignored. Labels have to be there: which tokens were masked, and what they were, cannot
    be told from the inputs. A collator that masks at random gives other data at each pass, which a problem refuses:
    mask once, and keep the batches.
    """

    head: str | None = None

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (B, T, V), or hidden states (B, T, D) behind the head's transform, its weight and its bias."""
        return language_outputs(model, model_inputs(batch), self.targets(batch), self, head=self.head)

    def targets(self, batch: Any) -> Tensor:
        """The batch's labels (B, T)."""
        return labels_of(batch, type(self).__name__)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """Find the linear head with the batch's first row, and refuse models whose curvature cannot be had."""
        first = first_row(batch)
        self.targets(first)  # whether there are any is said first
        return bind_head(self, model, model_inputs(first))

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Eager attention and experts in the place of fused ones."""
        return twice_differentiable(model)
