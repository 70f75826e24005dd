"""Rows of tokens out of documents: packed to equal length, or a document a row with padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from curvkit_hf.config import PretrainedConfig

__all__ = ["token_batches"]


def token_batches(tokenizer: Any, documents: Iterable[str], config: PretrainedConfig) -> list[dict[str, Tensor]]:
    """Batches of ``input_ids``, with an ``attention_mask`` where rows are padded; labels are the adapter's to make.

    Raises
    ------
    ValueError
        If no row has two tokens, or rows have to be padded and there is no pad token.
    """
    encoded = (tokenizer(document, add_special_tokens=not config.pack)["input_ids"] for document in documents)
    made = _packed(encoded, tokenizer.eos_token_id, config) if config.pack else _cut(encoded, config)
    rows = list(_budgeted(made, None if config.shuffle else config.max_tokens))
    if config.shuffle:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
        rows = list(_budgeted((rows[i] for i in order), config.max_tokens))
    if not rows:
        msg = f"text={config.text!r} has no two tokens in a row: there is nothing to predict."
        raise ValueError(msg)
    batches = [rows[low : low + config.batch_size] for low in range(0, len(rows), config.batch_size)]
    return [_stacked(batch, tokenizer, config) for batch in batches]


def _packed(encoded: Iterable[list[int]], end: int | None, config: PretrainedConfig) -> Iterator[list[int]]:
    """Rows of equal length, whatever documents they cut; a rest is left out, unless there is nothing else."""
    waiting: list[int] = []
    any_row = False
    for ids in encoded:
        waiting += [*ids, *([] if end is None else [end])]
        while len(waiting) >= config.sequence_length:
            any_row = True
            yield waiting[: config.sequence_length]
            waiting = waiting[config.sequence_length :]
    if not any_row and len(waiting) >= 2:
        yield waiting


def _cut(encoded: Iterable[list[int]], config: PretrainedConfig) -> Iterator[list[int]]:
    return (ids[: config.sequence_length] for ids in encoded if len(ids) >= 2)


def _budgeted(rows: Iterable[list[int]], max_tokens: int | None) -> Iterator[list[int]]:
    """As many rows as hold at most `max_tokens` together; the first is cut to it if need be."""
    left = max_tokens
    for number, row in enumerate(rows):
        if left is None:
            yield row
        elif len(row) <= left:
            left -= len(row)
            yield row
        else:
            if number == 0:
                yield row[:left]
            return


def _stacked(rows: list[list[int]], tokenizer: Any, config: PretrainedConfig) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    if all(len(row) == longest for row in rows):
        return {"input_ids": torch.tensor(rows)}
    pad = tokenizer.pad_token_id
    if config.pad_token is not None:
        pad = tokenizer.convert_tokens_to_ids(config.pad_token)
        if pad is None or pad == tokenizer.unk_token_id:
            msg = f"pad_token={config.pad_token!r} is no token of {config.model}'s tokenizer."
            raise ValueError(msg)
    if pad is None:
        end = tokenizer.eos_token
        msg = (
            f"pad_token=None: {config.model}'s tokenizer has none, and rows of {min(map(len, rows))} to {longest} "
            f"tokens have to be padded. Set pad_token{f' = {end!r}' if end else ''}, or pack = true, or batch_size = 1."
        )
        raise ValueError(msg)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
