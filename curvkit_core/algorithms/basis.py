r"""A basis: rows that grow one block after another and are combined in place at a restart.

On the device, in host memory or in a memory-mapped file, in the vectors' dtype or a lower one. Inner products go
through the vector space; nothing here converts or copies a whole basis. A checkpoint writes what was appended since the
last one, so rows are changed in place by :meth:`Basis.rotate` and :meth:`Basis.truncate` alone, which begin a new
generation.
"""

from __future__ import annotations

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
_COLUMNS = 1 << 14  # rotated at once: they stay in the cache (30 rows to 20 at n = 4 million: 0.4 of the time of 2^18)
_CHUNK, _CHUNKS = (
    1 << 14,
    1 << 6,
)  # subtracted at once on a CPU, as many products: BLAS takes one row by one thread alone
_COLUMNS_THERE = 1 << 18  # on another device, where every step is a launch


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

    def room(self, like: Tensor, ahead: int = 0) -> Tensor | None:
        """The place (1, n_local) of the row that will be appended after `ahead` others.

        None where there is none, or where rows lie otherwise than `like`: off the device, in another dtype.
        """
        number = self.size + ahead
        for start, block in self._placed():
            if start <= number < start + len(block):
                fits = self.storage == "device" and block.device == like.device and block.dtype == like.dtype
                return block[number - start : number - start + 1] if fits else None
        return None

    def placed(self, row: Tensor) -> Tensor:
        """The row (1, n_local) that will be appended next, copied to its place where it has one and is not there."""
        room = self.room(row)
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
        return both[:, :-1], max(float(both[0, -1]), 0.0) ** 0.5

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
        step = _COLUMNS if space.device.type == "cpu" else _COLUMNS_THERE
        for low in range(0, space.n_local, step):
            high = min(low + step, space.n_local)
            rotated = torch.zeros((m, high - low), dtype=space.dtype, device=space.device)
            for start, block in self._placed():
                part = block[: max(0, size - start), low:high].to(device=space.device, dtype=space.dtype)
                rotated.addmm_(C[:, start : start + len(part)].to(rotated), part)
            for start, block in self._placed():
                part = rotated[start : start + len(block)]
                block[: len(part), low:high] = part
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
    whole = W.shape[1] // _CHUNK if W.device.type == "cpu" else 0
    for first in range(0, whole, _CHUNKS):
        chunks = min(_CHUNKS, whole - first)
        place = slice(first * _CHUNK, (first + chunks) * _CHUNK)
        w, q = (part[:, place].unflatten(1, (chunks, _CHUNK)).transpose(0, 1) for part in (W, rows))
        w.baddbmm_(H.expand(chunks, -1, -1), q, alpha=-1.0)
    if whole * _CHUNK < W.shape[1]:
        W[:, whole * _CHUNK :].addmm_(H, rows[:, whole * _CHUNK :], alpha=-1.0)


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
