"""Vectors in parts: a row holds this rank's part of each parameter; small matrices are summed over the shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.errors import RankError
from curvkit_core.results.row_parts import DamagedPartError, check_part
from curvkit_ddp.collectives import small_stack, small_sum
from curvkit_ddp.ranks import Ranks
from curvkit_ddp.row_storage import load_rows, save_rows, saved_places

__all__ = ["ShardedSpace"]


class ShardedSpace(VectorSpace):
    """The space of vectors over sharded parameters.

    Parameters
    ----------
    segments : iterable of Segment
        This rank's parts, with where they begin.
    dtype, device
        As for :class:`curvkit_core.backends.VectorSpace`.
    shards : Ranks
        Over which the vectors are cut.
    everyone : Ranks
        All ranks, which have to agree.
    stores : bool
        Whether this rank's part is written: that of the first of several replicas.
    """

    def __init__(
        self,
        segments: Iterable[Segment],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        shards: Ranks,
        everyone: Ranks,
        stores: bool = True,
    ) -> None:
        super().__init__(segments, dtype=dtype, device=device)
        self.shards = shards
        self.everyone = everyone
        self.stores = stores
        lying = torch.tensor([(s.start, s.numel) for s in self.segments], dtype=torch.int64).reshape(-1, 2)
        self._lying = small_stack(shards, lying)  # (size, segments, 2)
        self._numels = self._lying[:, :, 1].sum(0)
        self._n, self._longest = int(self._numels.sum()), int(self._lying[:, :, 1].sum(1).max())

    @property
    def n(self) -> int:
        """Length of the vectors over all shards."""
        return self._n

    @property
    def layout(self) -> tuple[tuple[str, int], ...]:
        """The parameters with their sizes over all shards."""
        return tuple((s.name, numel) for s, numel in zip(self.segments, self._numels.tolist(), strict=True))

    def agree(self, value: int) -> int:
        """The largest of all ranks' values: one small collective."""
        return self.everyone.agree(value)

    def sum_over_shards(self, small: Tensor) -> Tensor:
        """Add a small matrix over the shards: one small collective."""
        return small_sum(self.shards, small)

    @property
    def writes(self) -> bool:
        """Rank 0 writes what all have together."""
        return self.everyone.rank == 0

    def is_rows(self, tensor: Tensor) -> bool:
        """Whether the last axis is a vector's on every rank; a small matrix of just that width counts as one."""
        return not self.everyone.largest(int(not super().is_rows(tensor)))

    def whole_rows(self, rows: Tensor) -> Tensor:
        """Rows with all their elements, a row at a time, on the shards' rank 0; on the others none. A gather a row."""
        flat = rows.reshape(rows.shape[:-1].numel(), self.n_local)  # on a rank without elements -1 is ambiguous
        found = [self._gathered(row) for row in flat]
        if self.shards.rank != 0:
            return rows.new_zeros(0)
        whole = torch.stack(found) if found else rows.new_zeros((0, self.n))
        return whole.reshape(*rows.shape[:-1], self.n)

    def own_rows(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that have all their elements."""
        offsets = self._numels.cumsum(0) - self._numels
        places = zip(offsets.tolist(), self.segments, strict=True)
        return torch.cat([rows[..., o + s.start : o + s.start + s.numel] for o, s in places], dim=-1)

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Any]]:
        """Write this rank's part of rows, by torch.distributed.checkpoint; a few small messages, none of vectors."""
        found: dict[str, Any] = {}
        failed: Exception | None = None
        if self.stores:
            pieces = {k: v for name, own in rows.items() for k, v in self._pieces(name, own).items()}
            try:
                found = save_rows(self.shards, folder, pieces)
            except Exception as error:  # noqa: BLE001 - raised when the other replicas have been told
                failed = error
        if self.everyone.largest(int(failed is not None)):
            if failed is not None:
                raise failed
            msg = f"rank {self.everyone.rank} stopped, since another replica could not save its vectors"
            raise RankError(msg)
        return found

    def read_rows(self, folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> Tensor:
        """This rank's part of rows that any number of ranks has written; each rank checks its share of the files."""
        seen, rows = "", self.zeros(0)
        try:
            for number, (file, facts) in enumerate(files.items()):
                if number % self.everyone.size == self.everyone.rank:
                    check_part(folder / file, name, facts)
            places = saved_places(folder, name, files)
            whole = next(iter(places.state_dict_metadata.values()), None)
            if isinstance(whole, TensorStorageMetadata):
                rows = torch.empty((*whole.size[:-2], self.n_local), dtype=whole.properties.dtype)
                load_rows(folder, places, self._pieces(name, rows))
            else:
                seen = f"{folder.name} has no rows {name!r}"
        except DamagedPartError as error:
            seen = str(error)
        if damages := [text for text in self.everyone.texts(seen) if text]:
            raise DamagedPartError(damages[0])
        return rows

    def _pieces(self, name: str, rows: Tensor) -> dict[str, DTensor]:
        """Views of each parameter's part of rows (..., n_local) on the CPU, as torch says where they belong."""
        mesh = DeviceMesh.from_group(self.shards.group, "cpu")
        found, offset = {}, 0
        for segment, numel in zip(self.segments, self._numels.tolist(), strict=True):
            if segment.numel:  # a rank without entries has no piece
                part = rows[..., offset : offset + segment.numel].unflatten(-1, (-1, segment.row))
                shape = torch.Size((*rows.shape[:-1], numel // segment.row, segment.row))
                stride = torch.empty(shape, device="meta").stride()
                cut = [Shard(rows.ndim - 1)]
                found[f"{name}/{segment.name}"] = DTensor.from_local(
                    part, mesh, cut, run_check=False, shape=shape, stride=stride
                )
            offset += segment.numel
        return found

    def _gathered(self, row: Tensor) -> Tensor:
        ranks = self.shards
        padded = torch.zeros(self._longest, dtype=row.dtype, device=ranks.device)
        padded[: self.n_local] = row
        parts = [torch.empty_like(padded) for _ in range(ranks.size)] if ranks.rank == 0 else None
        target = dist.get_global_rank(ranks.group, 0)
        ranks.finish(dist.gather(padded, parts, dst=target, group=ranks.group, async_op=True), "a gathering of rows")
        whole = torch.empty(self.n if parts is not None else 0, dtype=row.dtype)
        offsets = (self._numels.cumsum(0) - self._numels).tolist()
        for part, lying in zip(parts or [], self._lying.tolist(), strict=False):
            low = 0
            for offset, (start, numel) in zip(offsets, lying, strict=True):
                whole[offset + start : offset + start + numel] = part[low : low + numel].to(whole.device)
                low += numel
        return whole

    def comfortable_rows(self) -> int:
        """As for whole vectors, by the longest part: all ranks have to come to one answer."""
        return max(1, min(16, 2**28 // max(1, self._longest * self.dtype.itemsize)))

    def factor(self, A: Tensor) -> tuple[Tensor, Tensor]:
        r"""QR of tall parts: each rank's own, then one of all R's stacked (Demmel, Grigori, Hoemmen, Langou, 2012).

        Q = Q_r Q'_r with Q_r the rank's own factor and Q'_r its rows of the second: orthonormal whatever the rank of A.
        """
        k = A.shape[0]
        Q, R = torch.linalg.qr(A.mT)  # (n_local, m), (m, k) with m = min(n_local, k)
        own = torch.zeros((k, k), dtype=torch.float64)
        own[: R.shape[0]] = R.to(dtype=torch.float64, device="cpu")
        stacked = small_stack(self.shards, own).reshape(-1, k)
        second, top = torch.linalg.qr(stacked)
        rows = second[self.shards.rank * k : self.shards.rank * k + R.shape[0]].to(A)
        return (Q @ rows).mT.contiguous(), top
