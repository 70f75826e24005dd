"""How a batch is read: fields by name, some of them the model's inputs, others the loss's targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_targets", "fields_of", "labels_of", "model_inputs"]

#: What a batch may hold for the loss, or for a trainer, and the model shall not see.
NOT_INPUTS = frozenset({"labels", "shift_labels", "num_items_in_batch"})


def fields_of(batch: Any) -> Mapping[str, Any]:
    """The batch's fields: those of a mapping (a ``BatchEncoding`` is one), or a tensor of token ids alone."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, Tensor):
        return {"input_ids": batch}
    msg = (
        f"a batch is a {type(batch).__name__}: expected a mapping with the model's own argument names, as a tokenizer "
        'or data collator gives it, {"input_ids": ..., "attention_mask": ..., "labels": ...}, or a tensor of token ids.'
    )
    raise TypeError(msg)


def model_inputs(batch: Any) -> dict[str, Any]:
    """What of the batch the model is called with: all but the targets, so that it computes no loss of its own."""
    return {name: value for name, value in fields_of(batch).items() if name not in NOT_INPUTS and value is not None}


def labels_of(batch: Any, adapter: str) -> Tensor:
    """The batch's ``labels``.

    Raises
    ------
    ValueError
        If there are none: they cannot be derived from the inputs.
    """
    fields = fields_of(batch)
    labels = fields.get("labels")
    if not isinstance(labels, Tensor):
        msg = (
            f"{adapter}: the batch has the fields {', '.join(map(str, fields))} and no labels, and none can be derived "
            "from them. Add labels, with -100 where nothing is to be predicted."
        )
        raise ValueError(msg)
    return labels


def check_targets(targets: Tensor, classes: int, ignore_index: int, adapter: str) -> None:
    """Refuse a target that is no class of the model.

    Raises
    ------
    ValueError
        With its value, its place and how many classes there are.
    """
    if torch.compiler.is_compiling():  # which cannot branch on data
        return
    wrong = ((targets < 0) | (targets >= classes)) & (targets != ignore_index)
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        msg = (
            f"{adapter}: the target at {place} is {int(targets[place])}: expected 0 <= target < {classes}, the model's "
            f"outputs, or {ignore_index} for one that does not count. Are the labels of another tokenizer or label set?"
        )
        raise ValueError(msg)
