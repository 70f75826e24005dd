r"""Vectors and small numbers in one flat buffer, so that one collective sums both, the numbers exactly.

A number x >= 0 in float64 is told as ten digits of 12 bits, :math:`x = \sum_i d_i 2^{48 - 12 i}` to :math:`2^{-60}`:
sums of up to 4096 such digits are exact in float32, where a count of 20 million tokens would be not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DIGITS", "packed", "unpacked"]

#: Elements a number takes in the buffer.
DIGITS = 10
_BASE = 2.0**12
_TOP = 48


def packed(vectors: Tensor, numbers: Sequence[Tensor]) -> Tensor:
    """One buffer of the vectors' dtype: the vectors flattened, then ten digits for each element of `numbers`.

    Raises
    ------
    ValueError
        If a number is negative, not finite, or 2^60 and more.
    """
    told = torch.cat([n.detach().reshape(-1).double() for n in numbers]) if numbers else torch.empty(0)
    told = told.to(vectors.device)
    if told.numel() and not bool(((told >= 0) & (told < 2.0**60)).all()):
        msg = f"{told.tolist()} cannot be summed over ranks: expected finite counts, at least 0."
        raise ValueError(msg)
    digits = []
    rest = told
    for place in range(DIGITS):
        unit = 2.0 ** (_TOP - 12 * place)
        digit = (rest / unit).floor()
        digits.append(digit)
        rest = rest - digit * unit
    buffer = vectors.new_empty(vectors.numel() + DIGITS * told.numel())
    buffer[: vectors.numel()].view(vectors.shape).copy_(vectors)
    buffer[vectors.numel() :] = torch.cat(digits) if digits else torch.empty(0)
    return buffer


def unpacked(buffer: Tensor, vectors: Tensor, numbers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The summed vectors (a view) and numbers (float64), shaped as those that were packed."""
    summed = buffer[: vectors.numel()].view(vectors.shape)
    digits = buffer[vectors.numel() :].double().view(DIGITS, -1)
    weights = torch.tensor([2.0 ** (_TOP - 12 * i) for i in range(DIGITS)], dtype=torch.float64, device=buffer.device)
    # smallest first: every partial sum is exact where the whole is
    total = (digits * weights[:, None]).flip(0).sum(0)
    found = []
    low = 0
    for n in numbers:
        found.append(total[low : low + n.numel()].view(n.shape))
        low += n.numel()
    return (summed, *found)
