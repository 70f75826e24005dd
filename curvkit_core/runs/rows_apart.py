"""Vectors of a finished job on shards: each rank writes its part, and rank 0 has their shapes and where they lie."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.backends import ComparesRanks
    from curvkit_core.operators import CurvatureOperator
    from curvkit_core.results.parted_rows import PartedRows

__all__ = ["put_apart", "put_apart_with", "writes_apart"]

PLACE = "rows"  # in an order: where to write them; empty where they are written, or nothing can be done


def writes_apart(op: CurvatureOperator) -> bool:
    """Whether vectors of an operator's results lie in parts, and its space has the ranks write them."""
    from curvkit_core.backends import HoldsShards, StoresRows

    return op.problem is not None and isinstance(op.problem.backend, HoldsShards) and isinstance(op.space, StoresRows)


def put_apart(
    result: Any,
    op: CurvatureOperator,
    folders: Sequence[tuple[str, Callable[[], Path]]],
    lead: Callable[..., None],
    say: Callable[[str], None],
) -> tuple[Any, PartedRows | None]:
    """Write a result's vectors, all ranks together; on rank 0.

    Parameters
    ----------
    result : object
        With this rank's part of its vectors.
    op : CurvatureOperator
        Whose result it is.
    folders : sequence of (str, callable)
        Where to, in words, and what makes the folder: where one takes no files the next is tried.
    lead : callable
        Tells the other ranks, which are in :func:`put_apart_with`.
    say : callable
        Told what could not be written.

    Returns
    -------
    result : object
        With the vectors' shapes, and no elements.
    parts : PartedRows or None
        Where they are; None if there are no vectors, or they could be written nowhere.

    Raises
    ------
    RankError
        If the ranks have fallen out of step.
    """
    import torch

    from curvkit_core.results.parted_rows import rows_of, with_tensors

    rows = rows_of(result, op.space)
    if not rows:
        return result, None
    parts = None
    for where, made in folders:
        try:
            folder = made()
        except OSError as error:
            say(f"its vectors ({', '.join(rows)}) cannot be written into {where}: {error}")
            continue
        lead(**{PLACE: str(folder.absolute())})
        try:
            parts = _written(folder, rows, op)
            break
        except Exception as error:  # noqa: BLE001 - the numbers are there; of ranks out of step the next order tells
            say(f"its vectors ({', '.join(rows)}) cannot be written into {where}: {error}")
    else:
        say("they are lost when the run ends, unless --resume has a checkpoint to go on from")
    lead(**{PLACE: ""})
    shapes = {
        name: torch.empty((*own.shape[:-1], op.space.n), dtype=own.dtype, device="meta") for name, own in rows.items()
    }
    return with_tensors(result, shapes.get), parts


def put_apart_with(result: Any, op: CurvatureOperator, backend: ComparesRanks) -> None:
    """Write this rank's part where rank 0 says, until it is content; on the others."""
    from curvkit_core.results.parted_rows import PartedRows, rows_of

    rows = rows_of(result, op.space)
    while rows and (place := json.loads(backend.share(""))[PLACE]):
        with contextlib.suppress(Exception):  # rank 0 hears of it, with this rank's number, and says what is done next
            PartedRows.written(Path(place), rows, op.space)


def _written(folder: Path, rows: Mapping[str, Tensor], op: CurvatureOperator) -> PartedRows | None:
    from curvkit_core.results.parted_rows import PartedRows

    try:
        parts = PartedRows.written(folder, rows, op.space)
        if parts is not None:
            parts.check_sizes()  # in a folder that this rank sees alone the others' files are not there
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return parts
