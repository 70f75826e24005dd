"""Cross-entropy of an encoder-decoder's output tokens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

from attrs import frozen
from torch import Tensor, nn

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_hf.batch_fields import fields_of, labels_of, model_inputs
from curvkit_hf.checked_inputs import first_row
from curvkit_hf.inner_model import inner_model
from curvkit_hf.language_head import bind_head, language_outputs
from curvkit_hf.second_derivatives import twice_differentiable

__all__ = ["Seq2SeqLMLoss"]


@frozen(eq=False, kw_only=True)
class Seq2SeqLMLoss(TokenCrossEntropy):
    r"""The mean over output tokens, :math:`\sum_t -\log p(x_t \mid x_{<t}, \text{input}) / N`, of encoder-decoders.

    Equals the model's own ``.loss`` on one batch, for T5, BART and their kin (``*ForConditionalGeneration``).

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
        Of that head.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a label that is not ignored. Labels stand at the position that predicts them; ``decoder_input_ids`` are
    the batch's, or the labels shifted right by the model's own rule. ``decoder_attention_mask`` is the caller's.
    """

    head: str | None = None

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (B, T, V), or the decoder's hidden states (B, T, D) as the head takes them, its weight and bias."""
        return language_outputs(model, self._inputs(model, batch), self.targets(batch), self, head=self.head)

    def targets(self, batch: Any) -> Tensor:
        """The batch's labels (B, T)."""
        return labels_of(batch, type(self).__name__)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """Find the linear head with the batch's first row, and refuse models whose curvature cannot be had."""
        return bind_head(self, model, self._inputs(model, first_row(batch)))

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Eager attention and experts in the place of fused ones."""
        return twice_differentiable(model)

    def _inputs(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        inputs = model_inputs(batch)
        if "decoder_input_ids" in inputs or "decoder_inputs_embeds" in inputs:
            return inputs
        shift = getattr(inner_model(model), "prepare_decoder_input_ids_from_labels", None)
        if shift is None:
            msg = (
                f"{type(inner_model(model)).__name__} has no rule that makes decoder_input_ids of labels, and the "
                f"batch has the fields {', '.join(map(str, fields_of(batch)))}. Add decoder_input_ids; or use "
                "CausalLMLoss for a model that is no encoder-decoder."
            )
            raise ValueError(msg)
        return {**inputs, "decoder_input_ids": shift(labels=self.targets(batch))}
