"""What a backend is: how sums over data meet, how vectors are laid out, how data is dealt out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from attrs import frozen
from torch import Tensor, device, dtype, nn

from curvkit_core.backends.vector_space import Segment, VectorSpace

__all__ = ["Backend", "ComparesRanks", "HoldsShards", "Layout", "SharesFailures", "StoresRows", "World"]

T = TypeVar("T")


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

        The first holds vectors, (k, n_local), the others numbers in float64. Vectors whose backward passes have added
        them over shards already are added over what is left: replicas of the shards. The tensors given may be
        overwritten, and those returned are the caller's to overwrite.
        """
        ...

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Give this rank's part of batches that every rank holds whole; it can be iterated again."""
        ...

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround one product: what the model needs on this backend, and back."""
        ...


@runtime_checkable
class SharesFailures(Protocol):
    """A backend whose ranks wait for one another."""

    def give_up(self, sums: tuple[Tensor, ...], error: BaseException) -> None:
        """Tell the ranks that wait in `reduce` that this one has failed; `sums` are shaped as theirs, all zeros.

        They raise an error that names this rank and its own error, which this one goes on to raise.
        """
        ...


@runtime_checkable
class ComparesRanks(Protocol):
    """A backend that can tell whether its ranks were started alike."""

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raise on every rank, naming ranks and values, where the ranks' facts differ."""
        ...

    def share(self, text: str) -> str:
        """Give rank 0's text on every rank."""
        ...


@runtime_checkable
class HoldsShards(Protocol):
    """A backend whose ranks hold a part of every parameter: their forward passes are collective, and so in step."""

    def piece(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int]:
        """This rank's part as a plain tensor, and where in the flattened parameter its first element is."""
        ...

    def forward(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround one forward, inside `context`: parameters that belong to no block of the model are whole."""
        ...

    def in_step(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """As many items on each rank as the most that one has, and whether each counts or is there for step only."""
        ...


@runtime_checkable
class StoresRows(Protocol):
    """A vector space whose ranks write vectors to files, and read them, each its own part: no rank has a whole one.

    Checkpoints and results ask for it; without it `whole_rows` gathers what the rank that `writes` then writes. All
    ranks call these methods together. The space's `layout` has the parameters' whole sizes. What a part holds is said
    in :mod:`curvkit_core.results.row_parts`, whose functions a process without ranks reads them with.
    """

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Any]]:
        """Fill an empty folder with rows (..., n_local) by name; on the rank that `writes` give each file's facts.

        All files are whole and synced when it returns. Where a rank fails all of them raise.
        """
        ...

    def read_rows(self, folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> Tensor:
        """This rank's part of the rows of that name; `files` are the facts that were given when they were written.

        Raises :class:`curvkit_core.results.row_parts.DamagedPartError` on all ranks where a file is not what was
        written.
        """
        ...
