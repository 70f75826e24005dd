"""What a batch of tokens holds: the tokens, an attention mask, labels; read from a tensor or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["TokenBatch", "read_batch"]

_TOKENS = ("input_ids", "tokens")
_KEYS = (*_TOKENS, "attention_mask", "labels")


@frozen(kw_only=True, eq=False)
class TokenBatch:
    """Tokens (N, T), with a mask that is 1 at tokens and 0 at padding, and labels aligned with the tokens.

    Parameters
    ----------
    tokens : Tensor
    attention_mask : Tensor or None
        None: every token counts, unless the model finds padding itself.
    labels : Tensor or None
        None: the tokens themselves.
    """

    tokens: Tensor
    attention_mask: Tensor | None = None
    labels: Tensor | None = None

    def next_tokens(self, ignore_index: int) -> Tensor:
        """The targets (N, T): at each position the next label; `ignore_index` at the last one and beside padding.

        A pair counts where both its tokens do, as in TransformerLens's own loss: what padding predicts is no
        prediction.
        """
        labels = self.tokens if self.labels is None else self.labels
        targets = torch.full_like(labels, ignore_index)
        targets[:, :-1] = labels[:, 1:]
        if self.attention_mask is not None:
            real = self.attention_mask.bool()
            targets[:, :-1].masked_fill_(~(real[:, 1:] & real[:, :-1]), ignore_index)
        return targets


def read_batch(batch: Any) -> TokenBatch:
    """Read a batch: tokens; one tensor in a tuple or list; or a mapping with ``input_ids`` or ``tokens``.

    Raises
    ------
    TypeError, ValueError
        For anything else, a shape other than (N, T), tokens that are no integers: with the mend.
    """
    if isinstance(batch, tuple | list) and len(batch) == 1:
        (batch,) = batch
    if isinstance(batch, Tensor):
        read = TokenBatch(tokens=batch)
    elif isinstance(batch, Mapping):
        unknown = [key for key in batch if key not in _KEYS]
        named = [key for key in _TOKENS if key in batch]
        if unknown or len(named) != 1:
            msg = (
                f"the batch has the keys {', '.join(map(str, batch))}: expected input_ids or tokens, and no more than "
                "attention_mask and labels beside it."
            )
            raise ValueError(msg)
        read = TokenBatch(
            tokens=batch[named[0]], attention_mask=batch.get("attention_mask"), labels=batch.get("labels")
        )
    else:
        msg = (
            f"a batch of type {type(batch).__name__}: expected tokens, a tensor (N, T), or a mapping with input_ids "
            "and, for padding, attention_mask: {'input_ids': tokens, 'attention_mask': mask}."
        )
        raise TypeError(msg)
    _check(read)
    return read


def _check(read: TokenBatch) -> None:
    tokens = read.tokens
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        got = f"{tokens.dtype} of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        msg = f"the batch's tokens are {got}: expected integers (N, T). Text goes through model.to_tokens(text) first."
        raise ValueError(msg)
    for what, other in (("attention_mask", read.attention_mask), ("labels", read.labels)):
        if other is not None and tuple(other.shape) != tuple(tokens.shape):
            msg = f"the batch's {what} has shape {tuple(other.shape)}: expected the tokens', {tuple(tokens.shape)}."
            raise ValueError(msg)
