"""Softmax over rows of logits, a few rows at a time: what the products on given logits share.

The chunks stay in a core's cache, so that a pass over one costs a fraction of a pass over memory, and nothing of size
(N, V) is made here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["softmax_chunks"]

_CPU_CHUNK = 1 << 18  # elements at once
_CHUNK = 1 << 25  # on a GPU launches count more


def softmax_chunks(logits: Tensor, weight: Tensor, u: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Give (rows, p, u) chunk by chunk: probabilities (r, V) and a copy of u (..., r, V), both in float32 at least.

    Rows of weight 0 are zeros in u and uniform in p, whatever they held. Both tensors may be overwritten.
    """
    wide = torch.promote_types(torch.promote_types(logits.dtype, u.dtype), torch.float32)
    height = max(1, (_CPU_CHUNK if logits.device.type == "cpu" else _CHUNK) // max(1, logits.shape[1]))
    for low in range(0, len(logits), height):
        rows = slice(low, low + height)
        p = _cleared(logits[rows].to(wide, copy=True), weight[rows])
        p = torch.softmax(p, -1)
        yield rows, p, _cleared(u[..., rows, :].to(wide, copy=True), weight[rows])


def _cleared(chunk: Tensor, weight: Tensor) -> Tensor:
    """The chunk with zeros in the rows of weight 0, in place."""
    if chunk.device.type != "cpu":
        return chunk.masked_fill_((weight == 0)[:, None], 0.0)
    # a broadcast mask took four times as long as copying the chunk; no wait for a device stands in the way here
    return chunk.index_fill_(-2, (weight == 0).nonzero()[:, 0], 0.0)
