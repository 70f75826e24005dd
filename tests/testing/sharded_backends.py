"""A sharded backend that is wrong on two ranks alone, for the check that imports it in processes of their own."""

from __future__ import annotations

from torch import Tensor, nn

from curvkit_ddp import ShardedBackend, shard


class CountsItsOwn(ShardedBackend):
    """Divides by its own units: products are added over the ranks, counts are not."""

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return sums


def sharded(model: nn.Module) -> nn.Module:
    """The model in parts, as a case prepares it."""
    return shard(model)
