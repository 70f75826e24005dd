"""What a backend is: how sums over data meet, how vectors are laid out, how data is dealt out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from attrs import frozen
from torch import Tensor, device, dtype, nn

from curvkit_core.backends.vector_space import Segment, VectorSpace

__all__ = ["Backend", "Layout", "World"]


@frozen(kw_only=True)
class World:
    """Who takes part: this process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1


class Layout(Protocol):
    """How parameters lie in one vector, as a backend needs to know it."""

    @property
    def segments(self) -> tuple[Segment, ...]: ...
    @property
    def dtype(self) -> dtype: ...
    @property
    def device(self) -> device: ...


@runtime_checkable
class Backend(Protocol):
    """Everything that depends on there being one process or many; the one-process backend is the identity.

    A backend is a frozen object. Its methods are called in the same order on every rank.
    """

    @property
    def world(self) -> World:
        """This process's number, and how many there are."""
        ...

    def space(self, parameters: Layout) -> VectorSpace:
        """Give the space of vectors over `parameters`: inner products there are global."""
        ...

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add each tensor over the ranks: sums and counts, never means. At most one collective of parameter size.

        The tensors given may be overwritten, and those returned are the caller's to overwrite.
        """
        ...

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Give this rank's part of batches that every rank holds whole; it can be iterated again."""
        ...

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround one product: what the model needs on this backend, and back."""
        ...
