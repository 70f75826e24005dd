r"""A basis: rows that grow one block after another and are combined in place at a restart.

On the device, in host memory or in a memory-mapped file, in the vectors' dtype or a lower one. Inner products go
through the vector space; nothing here converts or copies a whole basis. A checkpoint writes what was appended since the
last one, so rows are changed in place by :meth:`Basis.rotate` and :meth:`Basis.truncate` alone, which begin a new
generation.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator

import torch
from attrs import define
from torch import Tensor

from curvkit_core.backends import VectorSpace

__all__ = ["BASIS_DTYPES", "BASIS_STORAGES", "Basis"]

BASIS_STORAGES = ("device", "host", "disk")
BASIS_DTYPES = (None, "float64", "float32", "bfloat16", "float16")

_ROWS = 2  # brought to the device, or widened, at once
# Columns go in chunks on a CPU, a product each, so many at once: BLAS takes one row by one thread alone. A chunk of a
# basis stays in the cache while it is rotated.
_CHUNK, _CHUNKS, _CHUNKS_ROTATED = 1 << 14, 1 << 6, 1 << 2
_SQUARES = 1e-25  # sums of squares below it may be of numbers that float32 has not got
_COLUMNS_THERE = 1 << 18  # rotated at once on another device, where every step is a launch


@define(eq=False)
class Basis:
    """Rows q_0, ..., q_{size-1} of length n_local, room for `capacity` of them.

    Parameters
    ----------
    blocks : list of Tensor
        Storage, (rows, n_local) each; they are filled in order.
    storage : {"device", "host", "disk"}
    size : int
        Rows in use.
    generation : int
        Counts the changes that were no append.
    """

    blocks: list[Tensor]
    storage: str = "device"
    size: int = 0
    generation: int = 0

    @classmethod
    def allocate(
        cls,
        space: VectorSpace,
        capacity: int,
        *,
        leading: int = 0,
        storage: str = "device",
        dtype: str | None = None,
        folder: str | None = None,
    ) -> Basis:
        """Make room for `capacity` rows; the first `leading` of them in a block of their own, see :meth:`release`.

        Parameters
        ----------
        space : VectorSpace
        capacity : int
        leading : int
        storage : {"device", "host", "disk"}
            ``"disk"``: a memory-mapped file in `folder` (None: the system's temporary one) with no name, which goes
            with the process.
        dtype : {None, "float64", "float32", "bfloat16", "float16"}
            None: the vectors' own. A lower one saves memory and rounds every row: see :meth:`eps`.
        """
        kind = space.dtype if dtype is None else getattr(torch, dtype)
        heights = [h for h in (min(leading, capacity), capacity - min(leading, capacity)) if h]
        return cls([_room((h, space.n_local), kind, space.device, storage, folder) for h in heights], storage)

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return sum(len(block) for block in self.blocks)

    @property
    def row_bytes(self) -> int:
        """Memory of one row as it is stored."""
        return self.blocks[0][0].nbytes if self.blocks else 0

    def eps(self, space: VectorSpace) -> float:
        """Unit roundoff of what is stored: never below that of the vectors."""
        return max(space.eps, float(torch.finfo(self.blocks[0].dtype).eps))

    def append(self, rows: Tensor) -> None:
        """Add rows (k, n_local) at the end; one that lies in its :meth:`room` already is not copied."""
        low, high = self.size, self.size + len(rows)
        assert high <= self.capacity, "the basis is full"
        for start, block in self._placed():
            first, last = max(low, start), min(high, start + len(block))
            if first < last and not _same_memory(block[first - start : last - start], rows[first - low : last - low]):
                block[first - start : last - start] = rows[first - low : last - low]
        self.size = high

    def room(self, like: Tensor, ahead: int = 0, rows: int = 1) -> Tensor | None:
        """The place (rows, n_local) of what will be appended after `ahead` rows.

        None where no block has it, or where rows lie otherwise than `like`: off the device, in another dtype.
        """
        number = self.size + ahead
        for start, block in self._placed():
            if start <= number and number + rows <= start + len(block):
                fits = self.storage == "device" and block.device == like.device and block.dtype == like.dtype
                return block[number - start : number - start + rows] if fits else None
        return None

    def placed(self, row: Tensor, ahead: int = 0) -> Tensor:
        """The row (1, n_local) that follows after `ahead` others, copied to its place where it has one elsewhere."""
        room = self.room(row, ahead)
        if room is None:
            return row
        return room if _same_memory(room, row) else room.copy_(row)

    def rows(self, space: VectorSpace, low: int, high: int) -> Tensor:
        """Rows `low` to `high`, in the space's dtype and on its device: a view where they lie so; not to be changed."""
        found = []
        for start, block in self._placed():
            first, last = max(low, start), min(high, start + len(block))
            if first < last:
                found.append(block[first - start : last - start])
        if len(found) == 1:
            return found[0].to(device=space.device, dtype=space.dtype)
        if not found:
            return space.zeros(0)
        return torch.cat([part.to(device=space.device, dtype=space.dtype) for part in found])

    def stored(self, low: int, high: int) -> Tensor:
        """Rows `low` to `high` as they are stored, copied to host memory: what a checkpoint writes."""
        found = [block[max(low - start, 0) : max(high - start, 0)] for start, block in self._placed() if start < high]
        return torch.cat([part.to("cpu") for part in found])

    def gram(self, space: VectorSpace, W: Tensor, size: int | None = None) -> Tensor:
        """Inner products W Q^T of rows W (k, n_local) with the first `size` rows: (k, size), float64 on the CPU."""
        parts = [space.gram(W, rows) for _, rows in self._loaded(space, self.size if size is None else size)]
        return torch.cat(parts, dim=1) if parts else torch.zeros((len(W), 0), dtype=torch.float64)

    def gram_and_norm(self, space: VectorSpace, w: Tensor, *, placed: bool) -> tuple[Tensor, float]:
        """The row w's inner products with all rows (1, size), and its norm: in one pass where it lies in its room.

        The caller says whether it does: memory alone does not tell on a rank that has none of it.
        """
        if not placed:
            return self.gram(space, w), float(space.norms(w)[0])
        both = self.gram(space, w, self.size + 1)
        squared = float(both[0, -1])
        # where the row's squares leave float32's range the products beside them may not: they are not taken again
        inside = _SQUARES < squared < math.inf
        return both[:, :-1], squared**0.5 if inside else float(space.norms(w)[0])

    def pair(self, one: Tensor, other: Tensor) -> Tensor | None:
        """The two rows that follow, :meth:`placed` where they have one, as one tensor (2, n_local).

        None where the basis lies on the device and has no room for both in one block.
        """
        both = self.room(one, rows=2)
        return torch.cat([one, other]) if both is None and self.storage != "device" else both

    def gram_following(self, space: VectorSpace, both: Tensor) -> Tensor:
        """Inner products of a :meth:`pair` with all rows and then with its first, (2, size + 1), in one pass."""
        if self.room(both, rows=2) is not None:
            return self.gram(space, both, self.size + 1)
        return torch.cat([self.gram(space, both), space.gram(both, both[:1])], dim=1)

    def subtract(self, space: VectorSpace, H: Tensor, W: Tensor) -> None:
        """Take H Q from the rows W (k, n_local), in place; H (k, size') belongs to the first size' rows."""
        for low, rows in self._loaded(space, H.shape[1]):
            _subtract(H[:, low : low + len(rows)].to(W), rows, W)

    def combine(self, space: VectorSpace, C: Tensor) -> Tensor:
        """C Q, (m, n_local); C (m, size') belongs to the first size' rows."""
        out = space.zeros(len(C))
        self.subtract(space, -C, out)
        return out

    def rotate(self, space: VectorSpace, C: Tensor) -> None:
        """Q <- C Q in place, C (m, size') with m <= size': m rows are left."""
        m, size = C.shape
        assert m <= size <= self.size
        cpu = space.device.type == "cpu"
        chunk, chunks = (_CHUNK, _CHUNKS_ROTATED) if cpu else (_COLUMNS_THERE, 1)
        # one scratch for all: fresh memory of its size is a page fault every 4 KB, and those were half of the time
        scratch = torch.empty(m * min(chunk * chunks, space.n_local), dtype=space.dtype, device=space.device)
        C = C.to(scratch)
        for place, count in _columns(space.n_local, chunk, chunks):
            rotated = scratch[: m * (place.stop - place.start)].view(count, m, -1)
            for start, block in self._placed():
                part = _cut(block[: max(0, size - start)], place, count).to(device=space.device, dtype=space.dtype)
                rotated.baddbmm_(
                    C[:, start : start + part.shape[1]].expand(count, -1, -1), part, beta=1.0 if start else 0.0
                )
            for start, block in self._placed():
                part = rotated[:, start : start + len(block)]
                _cut(block[: part.shape[1]], place, count).copy_(part)
        self.size = m
        self.generation += 1

    def truncate(self, size: int) -> None:
        """Keep the first `size` rows."""
        if size != self.size:
            self.size = size
            self.generation += 1

    def release(self, space: VectorSpace, rows: int) -> Tensor:
        """Give the first `rows` rows as a tensor of their own and let go of the others: no copy if they are a block."""
        first = self.blocks[0] if self.blocks else space.zeros(0)
        plain = self.storage == "device" and first.dtype == space.dtype
        kept = first if plain and len(first) == rows else self.rows(space, 0, rows).clone()
        self.blocks = [kept] if len(kept) else []
        self.storage, self.size = "device", rows
        self.generation += 1
        return kept

    def _placed(self) -> Iterator[tuple[int, Tensor]]:
        start = 0
        for block in self.blocks:
            yield start, block
            start += len(block)

    def _loaded(self, space: VectorSpace, size: int) -> Iterator[tuple[int, Tensor]]:
        """The first `size` rows as the space has them: blocks as they lie, or a few rows brought over at a time."""
        for start, block in self._placed():
            used = block[: max(0, size - start)]
            there = block.device == space.device and block.dtype == space.dtype
            step = max(len(used), 1) if there else _ROWS
            for low in range(0, len(used), step):
                yield start + low, used[low : low + step].to(device=space.device, dtype=space.dtype)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape are the same numbers in the same place."""
    return one.data_ptr() == other.data_ptr() and one.dtype == other.dtype and one.stride() == other.stride()


def _subtract(H: Tensor, rows: Tensor, W: Tensor) -> None:
    """W -= H rows, in place; on a CPU in chunks of columns, which all threads share."""
    if W.device.type != "cpu":
        W.addmm_(H, rows, alpha=-1.0)
        return
    for place, count in _columns(W.shape[1], _CHUNK, _CHUNKS):
        _cut(W, place, count).baddbmm_(H.expand(count, -1, -1), _cut(rows, place, count), alpha=-1.0)


def _columns(n: int, chunk: int, chunks: int) -> Iterator[tuple[slice, int]]:
    """Columns 0 to n in groups of up to `chunks` whole chunks, and how many those are; what is left is one."""
    whole = n // chunk
    for first in range(0, whole, chunks):
        count = min(chunks, whole - first)
        yield slice(first * chunk, (first + count) * chunk), count
    if whole * chunk < n:
        yield slice(whole * chunk, n), 1


def _cut(rows: Tensor, place: slice, count: int) -> Tensor:
    """These columns (count, rows, chunk): a view."""
    cut: Tensor = rows[:, place].unflatten(1, (count, -1)).transpose(0, 1)
    return cut


def _room(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, storage: str, folder: str | None) -> Tensor:
    if storage == "device":
        return torch.empty(shape, dtype=dtype, device=device)
    if storage == "host":
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    handle, path = tempfile.mkstemp(prefix="curvkit-basis-", dir=folder)
    os.close(handle)
    try:
        size = shape[0] * shape[1]
        return torch.from_file(path, shared=True, size=size, dtype=dtype).view(shape)
    finally:
        os.unlink(path)  # noqa: PTH108 - the mapping keeps the file until it goes itself
