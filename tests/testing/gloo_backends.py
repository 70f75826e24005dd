"""Replicated backends over gloo for the check of two ranks, which imports them in processes of their own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed as dist
from attrs import frozen
from torch import Tensor, nn

from curvkit_core.backends import SingleBackend, VectorSpace, World


@frozen(kw_only=True)
class Gloo:
    """Adds sums and counts over the ranks; one process alone where no group was started."""

    @property
    def world(self) -> World:
        alone = not dist.is_initialized()
        return World() if alone else World(rank=dist.get_rank(), size=dist.get_world_size())

    def space(self, parameters: Any) -> VectorSpace:
        return SingleBackend().space(parameters)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for tensor in sums if self.world.size > 1 else ():
            dist.all_reduce(tensor)
        return sums

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        return list(batches)[self.world.rank :: self.world.size]

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


@frozen(kw_only=True)
class MeanOfMeans(Gloo):
    """Every rank counts alike, whatever it holds."""

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.world.size == 1:
            return sums
        total, count = sums
        mean = total / count.clamp_min(1.0)
        dist.all_reduce(mean)
        return mean / self.world.size, count / count


@frozen(kw_only=True)
class HangsOnOneRank(Gloo):
    """Fails on rank 1 before it takes part."""

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.world.rank == 1:
            raise RuntimeError("rank 1 has lost its data")
        return super().reduce(sums)
