"""A replicated model during a product: its wrapper's own collectives kept out, and the ranks' values told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from attrs import define
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from curvkit_core.linearize.fingerprint import content_hash

__all__ = ["ValuesDigest", "plain_forward"]


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Let every DistributedDataParallel in `model` call what it wraps, and nothing else, for the length of the context.

    Its forward broadcasts buffers and rebuilds buckets: collectives that a rank with no batch would not join.
    """
    wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel) and "forward" not in vars(m)]
    for wrapper in wrappers:
        wrapper.__dict__["forward"] = wrapper.module.__call__
    try:
        yield
    finally:
        for wrapper in wrappers:
            del wrapper.__dict__["forward"]


@define(eq=False)
class ValuesDigest:
    """36 bits of a hash of a model's parameters and buffers, computed anew when an object or version has changed.

    A write that moves no version counter (``.data``, fused optimisers) is not seen here; the next one that does is.
    """

    _seen: tuple[tuple[int, int, int], ...] = ()
    value: int = 0

    def of(self, model: nn.Module) -> int:
        """The digest of the model as it is."""
        held = [*model.parameters(), *model.buffers()]
        seen = tuple((id(t), t.data_ptr(), t._version) for t in held)
        if seen != self._seen:
            hashes = [content_hash(t.detach()).cpu() for t in held]
            text = repr(torch.stack(hashes).tolist() if hashes else [])
            self.value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 28
            self._seen = seen
        return self.value
