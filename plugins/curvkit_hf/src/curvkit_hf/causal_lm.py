"""Next-token cross-entropy of causal language models."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_hf.batch_fields import fields_of, model_inputs
from curvkit_hf.checked_inputs import check_causal, first_row
from curvkit_hf.language_head import bind_head, language_outputs
from curvkit_hf.second_derivatives import twice_differentiable

__all__ = ["CausalLMLoss"]


@frozen(eq=False, kw_only=True)
class CausalLMLoss(TokenCrossEntropy):
    r"""The mean over target tokens, :math:`\sum_t -\log p(x_{t+1} \mid x_{\le t}) / N`, of models ``*ForCausalLM``.

    Equals the model's own ``.loss`` on one batch. A batch is a mapping with the model's argument names. A problem finds
    the model's linear head and leaves the logits out: memory grows with hidden states and the head's weight.

    Parameters
    ----------
    ignore_index : int
        Labels that do not count.
    label_smoothing : float, 0 to 1
        Share of a target's mass that is spread over the vocabulary.
    chunk_bytes : int
        Bound on the (rows, V) tensors that exist at a time, together.
    head : str or None
        The linear head's name in the model, once a problem has found it; None: logits are computed and held.
    softcap, logit_scale : float
        Of that head: Gemma 2's cap, Cohere's factor, the inverse of Granite's divisor.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a target that is not ignored. The labels' shift is as in transformers: position t predicts ``labels[t +
    1]``; ``shift_labels`` are taken unshifted. Where the batch has no labels they are its tokens, without padding
    (where ``attention_mask`` is 0) and without a row's first real token, which nothing real stands before.

    ``position_ids`` are the caller's: where a left-padded row has none, the model counts its padding, as it does in
    training. A mixture of experts' load-balancing term is no part of the loss, and a note says so.
    """

    head: str | None = None

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (B, T, V), or hidden states (B, T, D), the head's weight and its bias; T with the last position."""
        return language_outputs(model, model_inputs(batch), self.targets(batch), self, head=self.head)

    def targets(self, batch: Any) -> Tensor:
        """Each position's next token (B, T), ignored at the last; not the logits are shifted, which would copy them."""
        fields = fields_of(batch)
        if isinstance(shifted := fields.get("shift_labels"), Tensor):
            return shifted
        labels = fields.get("labels")
        labels = labels if isinstance(labels, Tensor) else self._labels_from_inputs(batch)
        return functional.pad(labels[..., 1:], (0, 1), value=self.ignore_index)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """Find the linear head with the batch's first row, and refuse models that this loss is not for."""
        first = first_row(batch)
        row = model_inputs(first)
        self.targets(first)  # whether there are any is said first
        bound, notes = bind_head(self, model, row)
        check_causal(model, row)
        return bound, notes

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Eager attention and experts in the place of fused ones."""
        return twice_differentiable(model)

    def _labels_from_inputs(self, batch: Any) -> Tensor:
        fields = fields_of(batch)
        ids, mask = fields.get("input_ids"), fields.get("attention_mask")
        if not isinstance(ids, Tensor) or (isinstance(mask, Tensor) and mask.shape != ids.shape):
            seen = "no input_ids" if not isinstance(ids, Tensor) else f"an attention_mask of shape {tuple(mask.shape)}"
            msg = (
                f"{type(self).__name__}: the batch has the fields {', '.join(map(str, fields))} and no labels, and "
                f"none can be derived: it has {seen}. Add labels, with {self.ignore_index} where nothing is to be "
                "predicted."
            )
            raise ValueError(msg)
        if not isinstance(mask, Tensor):
            return ids
        real = mask != 0
        follows = functional.pad(real[:, :-1], (1, 0), value=False)
        return torch.where(real & follows, ids, self.ignore_index)
