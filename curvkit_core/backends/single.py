"""One process: every operation is the identity."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from attrs import Factory, frozen
from torch import Tensor, nn

from curvkit_core.backends.protocol import Layout, World
from curvkit_core.backends.vector_space import VectorSpace

__all__ = ["SingleBackend"]


@frozen(kw_only=True)
class SingleBackend:
    """The backend of one process: sums are already whole, all data is its own."""

    world: World = Factory(World)

    def space(self, parameters: Layout) -> VectorSpace:
        """Vectors lie whole on the parameters' device."""
        return VectorSpace(parameters.segments, dtype=parameters.dtype, device=parameters.device)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return `sums` as they are."""
        return sums

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return `batches` as they are."""
        return batches

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing to prepare."""
        return nullcontext()
