r"""A counter-based hash of integers, and hashes of tensors' bytes by it: alike on every device.

The hash is splitmix64's finaliser [1]_ in int64 torch operations, which wrap around alike everywhere.

References
----------
.. [1] Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["as_words", "content_hash", "hash_of_words", "hashed_words", "logical_shift", "splitmix64"]

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_BLOCK = 1 << 16  # words at a time: they and their scratch stay in the cache


def logical_shift(z: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right, zeros coming in."""
    shifted: Tensor = z >> bits
    return shifted.bitwise_and_((1 << (64 - bits)) - 1)


def splitmix64(counters: Tensor, key: int) -> Tensor:
    """Hash int64 counters under a key: each element by itself."""
    z = (counters + 1).mul_(_GOLDEN).add_(key)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2)):
        z.bitwise_xor_(logical_shift(z, bits)).mul_(factor)
    return z.bitwise_xor_(logical_shift(z, 31))


def hashed_words(count: int, *, device: torch.device | None = None) -> Tensor:
    """The first `count` odd 64-bit words of one fixed stream: the weights of a fingerprint."""
    return splitmix64(torch.arange(count, device=device), 0) | 1


def content_hash(tensor: Tensor) -> Tensor:
    """A 64-bit hash of the tensor's bytes in their order, as a scalar int64 on its device; no wait for the device."""
    return hash_of_words(as_words(tensor))


def hash_of_words(words: Tensor) -> Tensor:
    """The sum of 64-bit words, each mixed and times an odd weight of its own place, in wrapping integer arithmetic.

    Without the mixing two flipped sign bits would cancel: a weight is odd, so bit 63 times it is bit 63.
    """
    weights = _weights(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for number, low in enumerate(range(0, words.numel(), _BLOCK)):
        block = words[low : low + _BLOCK]
        mixed = (block >> 33).add_(block)  # bit 63, a sign, counts as bit 30 too, which is no number's sign
        part = mixed.mul_(weights[: block.numel()]).sum()
        total = total + part * (_odd(number) if number else 1)
    return total


def as_words(tensor: Tensor) -> Tensor:
    """The tensor's bytes as int64; what is left over of 8 bytes is padded with zeros."""
    if not tensor.numel():
        return torch.empty(0, dtype=torch.int64, device=tensor.device)
    # a clone, since a tensor of one element counts as contiguous whatever its stride, and is then no view of bytes
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    flat = (flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)).view(torch.uint8)
    if flat.numel() % 8 == 0 and flat.data_ptr() % 8 == 0:
        return flat.view(torch.int64)
    padded = torch.zeros((flat.numel() + 7) // 8 * 8, dtype=torch.uint8, device=tensor.device)
    padded[: flat.numel()] = flat
    return padded.view(torch.int64)


@cache
def _weights(device: torch.device) -> Tensor:
    return hashed_words(_BLOCK, device=device)


@cache
def _odd(number: int) -> int:
    return int(hashed_words(number + 1)[number])
