"""Rows of vectors on disk, by torch.distributed.checkpoint: it plans who writes and reads what, here are the files.

A parameter's piece of rows (..., entries, row) is a DTensor cut along its entries, as FSDP2 cuts the parameter; on
loading, on any number of ranks, each takes from the files what its own piece needs. The files are core's
(:mod:`curvkit_core.results.row_parts`): safetensors, nothing pickled. torch's own file writer pickles its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from curvkit_core.results.row_parts import opened_part, write_part
from curvkit_ddp.ranks import Ranks

__all__ = ["load_rows", "saved_places", "save_rows"]

Files = Mapping[str, Mapping[str, Any]]


def save_rows(ranks: Ranks, folder: Path, pieces: Mapping[str, DTensor]) -> dict[str, Any]:
    """Write this rank's pieces, all ranks together; on rank 0 give every file's facts."""
    writer = _Writer(folder, ranks.rank)
    ranks.conferring(
        lambda group: dcp.save(dict(pieces), storage_writer=writer, process_group=group), "a save of vectors"
    )
    return writer.files


def load_rows(folder: Path, places: Metadata, pieces: Mapping[str, DTensor]) -> None:
    """Fill this rank's pieces; `places` is what :func:`saved_places` gave. No messages: each rank by its own plan.

    (``dcp.load`` confers on plans that need no agreement, and before torch 2.7 not in a group without global rank 0.)
    """
    planner = DefaultLoadPlanner()
    planner.set_up_planner(dict(pieces), places, is_coordinator=False)
    by_file: dict[str, list[ReadItem]] = {}
    for item in planner.finish_plan(planner.create_local_plan()).items:
        by_file.setdefault(places.storage_data[item.storage_index], []).append(item)
    for name, items in by_file.items():
        with opened_part(folder / name) as (file, _):
            for item in items:
                ends = zip(item.storage_offsets, item.lengths, strict=True)
                wanted = tuple(slice(low, low + length) for low, length in ends)
                target = planner.resolve_tensor(item).detach()
                target.copy_(file.get_slice(item.storage_index.fqn)[wanted])
                planner.commit_tensor(item, target)


def saved_places(folder: Path, name: str, files: Files) -> Metadata:
    """Where the pieces of the rows of that name are; each file's header is read."""
    found: dict[str, TensorStorageMetadata] = {}
    homes: dict[MetadataIndex, str] = {}
    for file_name in files:
        with opened_part(folder / file_name) as (file, offsets):
            for key in (key for key in file.keys() if key.startswith(f"{name}/")):  # noqa: SIM118 - no mapping
                sizes, offset = torch.Size(file.get_slice(key).get_shape()), torch.Size(offsets[key])
                whole = torch.Size([o + s for o, s in zip(offset, sizes, strict=True)])
                if key not in found:
                    kind = TensorProperties(dtype=file.get_slice(key)[:0].dtype)
                    found[key] = TensorStorageMetadata(properties=kind, size=whole, chunks=[])
                known = found[key]
                known.size = torch.Size(map(max, known.size, whole))
                known.chunks.append(ChunkStorageMetadata(offsets=offset, sizes=sizes))
                homes[MetadataIndex(key, offset)] = file_name
    return Metadata(state_dict_metadata=dict(found), storage_data=homes)


class _Writer(dcp.StorageWriter):
    """One file a rank; a rank that has nothing to write has none."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.name = f"part-{rank:05d}.safetensors"
        self.files: dict[str, Any] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one save to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """The folder is there already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As torch has made it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As torch has made it."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file; its facts go to the coordinator with the results."""
        tensors: dict[str, Tensor] = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        offsets = {item.index.fqn: tuple(item.index.offset) for item in plan.items}
        facts = write_part(self.folder / self.name, tensors, offsets) if tensors else None
        results = [
            WriteResult(index=item.index, size_in_bytes=tensors[item.index.fqn].nbytes, storage_data=(self.name, facts))
            for item in plan.items[:1]
        ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator, when all have written: the files say themselves what they hold."""
        self.files = dict(result.storage_data for own in results for result in own)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """It is chosen by nobody but this module."""
        return False
