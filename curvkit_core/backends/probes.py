"""Random vectors from a counter-based hash: element i is a function of (seed, index, parameter, i) and nothing else.

The hash is :func:`curvkit_core.hashing.splitmix64`, alike on every device. So signs are bit-equal on the CPU, on a GPU,
on any rank or shard and after a resume; torch's own generators cannot do this. Gaussians go through ``log`` and
``cos``, and agree between devices to rounding.
"""

from __future__ import annotations

import hashlib
import math
import sys

import torch
from torch import Tensor

from curvkit_core.hashing import hashed_words, logical_shift, splitmix64

__all__ = ["fill_gaussian", "fill_signs", "hashed_words", "stream_key", "uniforms"]

_WORDS = 1 << 14  # 64 signs a word: one chunk's scratch is 2^20 numbers, whatever the vector's length


def stream_key(seed: int, index: int, name: str) -> int:
    """Hash (seed, index, parameter name) to a signed 64-bit key: one key a vector and parameter."""
    text = f"{seed}\x1f{index}\x1f{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def fill_signs(out: Tensor, *, key: int, start: int) -> None:
    """Fill the 1-D `out` with +-1: element j is bit (start + j) % 64 of the hash of word (start + j) // 64."""
    first, last = start // 64, (start + out.numel() + 63) // 64
    # a row of eight signs for every byte: a tenth of the time of shifting every bit out of its word
    shifts = torch.arange(8, device=out.device)
    eights = (((torch.arange(256, device=out.device)[:, None] >> shifts) & 1) * 2 - 1).to(out.dtype)
    for word in range(first, last, _WORDS):
        hashes = splitmix64(torch.arange(word, min(word + _WORDS, last), device=out.device), key)
        octets = hashes.view(torch.uint8).view(-1, 8)
        if sys.byteorder == "big":
            octets = octets.flip(1)
        signs = eights.index_select(0, octets.reshape(-1).int()).view(-1)
        low = word * 64 - start
        head, tail = max(low, 0), min(low + signs.numel(), out.numel())
        out[head:tail] = signs[head - low : tail - low]


def fill_gaussian(out: Tensor, *, key: int, start: int) -> None:
    """Fill the 1-D `out` with standard normals: Box-Muller in float64 from the two halves of one hash an element."""
    step = _WORDS * 4  # elements whose scratch stays in the cache: 0.6 of the time of four times as many
    for low in range(0, out.numel(), step):
        high = min(low + step, out.numel())
        h = splitmix64(torch.arange(start + low, start + high, device=out.device), key)
        radius = logical_shift(h, 32).double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = h.bitwise_and_(0xFFFFFFFF).double().mul_(2.0 * math.pi * 2.0**-32)
        out[low:high] = radius.mul_(angle.cos_())


def uniforms(count: int, *, key: int, start: int, device: torch.device | None = None) -> Tensor:
    """Give `count` numbers in (0, 1), float64: element j depends on (key, start + j) alone."""
    h = splitmix64(torch.arange(start, start + count, device=device), key)
    return (logical_shift(h, 11).double() + 0.5).mul_(2.0**-53)
