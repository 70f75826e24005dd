"""What is looked at in a model's inputs: whether it can read them, and whether it sees what it is to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_core.problem.batches import microbatches
from curvkit_hf.batch_fields import fields_of
from curvkit_hf.inner_model import call_for_logits, context_length, inner_model

__all__ = ["check_causal", "check_inputs", "first_row"]

_ROUNDINGS = 16.0


def first_row(batch: Any) -> Any:
    """The batch's first row, as a batch: a look at the model needs no more.

    All of it where some of its tensors have no row for each of the others', as the patches of several images.
    """
    sizes = {value.shape[0] for value in fields_of(batch).values() if isinstance(value, Tensor) and value.ndim}
    return next(microbatches(batch, 1)) if len(sizes) == 1 else batch


def check_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse rows that the model cannot read: longer than its context, or of another vocabulary.

    Raises
    ------
    ValueError
        With the numbers, and what to cut or change.
    """
    inner, length = inner_model(model), context_length(model)
    name = type(inner).__name__
    for field in ("input_ids", "decoder_input_ids"):
        ids = inputs.get(field)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            continue
        if length is not None and ids.shape[1] > length:
            msg = (
                f"{field} has {ids.shape[1]} tokens a row, and {name}'s positions are made for {length} (its "
                f"configuration's max_position_embeddings). Cut the rows to at most {length} tokens."
            )
            raise ValueError(msg)
        table = getattr(inner.get_input_embeddings(), "num_embeddings", None)
        if table is not None and ids.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= table:
                msg = (
                    f"{field} holds {low if low < 0 else high}: expected 0 <= id < {table}, {name}'s vocabulary. "
                    "Is the tokenizer another model's?"
                )
                raise ValueError(msg)


def check_causal(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse a model whose logits before the last token change with it: it sees what it is asked to predict.

    Costs two forwards of the first row. Left out in train mode, where dropout may change them too.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if model.training or not isinstance(ids, Tensor) or ids.ndim != 2:
        return
    real = mask[0].nonzero() if isinstance(mask, Tensor) and mask.ndim == 2 else torch.arange(ids.shape[1])[:, None]
    if len(real) < 2:
        return
    last = int(real[-1])
    vocabulary = inner_model(model).get_input_embeddings().num_embeddings
    other = ids.clone()
    other[:, last] = (ids[:, last] + 1) % vocabulary
    before, after = (call_for_logits(model, {**inputs, "input_ids": i})[:1, :last] for i in (ids, other))
    gap, size = float((before - after).abs().max()), float(before.abs().max())
    if gap > _ROUNDINGS * torch.finfo(before.dtype).eps * size:
        name = type(inner_model(model)).__name__
        msg = (
            f"{name} is no causal language model as it is configured: its logits before token {last} change by "
            f"{gap:.1e} when that token is another, so it sees what it would be asked to predict. Use MaskedLMLoss "
            "with labels for an encoder; set config.is_decoder = True where an encoder's class is meant as a decoder."
        )
        raise ValueError(msg)
