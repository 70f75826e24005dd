"""Vectors on disk in parts: a safetensors file a rank, from which any number of ranks, or one process, takes its own.

A file holds, for rows called `name` and each parameter of which its rank has something, a tensor ``name/parameter`` of
shape (..., entries, row): a run of the entries of the parameter's first dim, flattened to `row` elements each. Where
the run begins is in the file's metadata, as torch.distributed.checkpoint's reader of such files has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvkit_core.hashing import content_hash
from curvkit_core.results.atomic import sync_file

__all__ = ["DamagedPartError", "check_part", "opened_part", "read_parts", "write_part"]

_PLACES, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # torch's own words


class DamagedPartError(ValueError):
    """A file of vectors is not what was written."""


def write_part(path: Path, tensors: Mapping[str, Tensor], offsets: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Write one rank's part; give the facts by which it is known again.

    Parameters
    ----------
    path : Path
        Not there yet.
    tensors : mapping of str to Tensor, shape (..., entries, row)
        By ``name/parameter``. One at a time is copied.
    offsets : mapping of str to tuple of int
        The index of each tensor's first element in the whole.

    Returns
    -------
    dict
        ``bytes``, and ``hashes`` by name.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dense = {key: t.detach().to("cpu").contiguous() for key, t in tensors.items()}
    places = {key: {_OFFSETS: list(offsets[key])} for key in dense}
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dense, path, metadata={_PLACES: json.dumps(places)})
    except SafetensorError as error:  # a full disk has no class of its own there
        msg = f"{path}: {error}"
        raise OSError(msg) from error
    path.chmod(mode)  # safetensors writes 0600, and others may be to read a result
    sync_file(path)
    hashes = {name: _combined(keys, dense.__getitem__) for name, keys in _by_name(dense).items()}
    return {"bytes": path.stat().st_size, "hashes": hashes}


def check_part(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Read what a file holds of the rows of that name, and compare it with what was written.

    Raises
    ------
    DamagedPartError
        With the file's name.
    """
    with opened_part(path) as (file, _):
        keys = _by_name(file.keys()).get(name, [])
        if _combined(keys, file.get_tensor) != facts["hashes"].get(name, _combined([], file.get_tensor)):
            msg = f"{path.name}: the bytes of {name!r} are not those that were written"
            raise DamagedPartError(msg)


def read_parts(
    folder: Path, name: str, files: Mapping[str, Mapping[str, Any]], layout: Iterable[tuple[str, int]]
) -> Tensor:
    """Put rows together, over all elements of the parameters, in one process.

    Parameters
    ----------
    folder : Path
    name : str
        The rows'.
    files : mapping of str to mapping
        By name in the folder, what :func:`write_part` gave.
    layout : iterable of (str, int)
        The parameters in the order that the rows shall have them, with their sizes: a space's ``layout``.

    Returns
    -------
    Tensor, shape (..., n), on the CPU

    Raises
    ------
    DamagedPartError
        If a file is not what was written, or the files are not all there.
    """
    places, n = {}, 0
    for parameter, numel in layout:
        places[parameter] = (n, numel)
        n += numel
    whole: Tensor | None = None
    filled = 0
    for file_name, facts in files.items():
        check_part(folder / file_name, name, facts)
        with opened_part(folder / file_name) as (file, offsets):
            for key in _by_name(file.keys()).get(name, []):
                part = file.get_tensor(key)
                parameter = key.removeprefix(f"{name}/")
                if parameter not in places:
                    msg = f"{file_name} has parameter {parameter!r}, which is not among those of this run"
                    raise DamagedPartError(msg)
                if whole is None:
                    shape = torch.Size((*part.shape[:-2], n))
                    _require_room(folder, files, shape, part.dtype)
                    whole = torch.empty(shape, dtype=part.dtype)
                low, high = _place(part, offsets[key], *places[parameter], whole, f"{file_name}: {key!r}")
                whole[..., low:high] = part.flatten(-2)
                filled += part.numel()
    if whole is None or filled != whole.numel():
        expected = n if whole is None else whole.numel()
        msg = f"{folder.name} has {filled} elements of {name!r}, expected {expected}"
        raise DamagedPartError(msg)
    return whole


def _require_room(folder: Path, files: Iterable[str], shape: torch.Size, kind: torch.dtype) -> None:
    """Refuse what the files cannot hold, before memory is asked for it."""
    there = sum((folder / name).stat().st_size for name in files if (folder / name).is_file())
    if shape.numel() * kind.itemsize > there:
        msg = f"{folder.name} has files of {there} bytes: too few for rows {tuple(shape)} of {kind}"
        raise DamagedPartError(msg)


def _place(part: Tensor, offset: tuple[int, ...], start: int, numel: int, whole: Tensor, what: str) -> tuple[int, int]:
    """Where a piece goes in the whole rows; refused where it does not fit there, whatever its file says."""
    if part.ndim >= 2 and part.shape[:-2] == whole.shape[:-1] and part.dtype == whole.dtype:
        entries, row = part.shape[-2:]
        low = start + offset[-2] * row
        if len(offset) == part.ndim and start <= low and low + entries * row <= start + numel:
            return low, low + entries * row
    msg = f"{what} ({tuple(part.shape)}, {part.dtype}, at {list(offset)}) is no part of rows {tuple(whole.shape)}"
    raise DamagedPartError(msg)


@contextmanager
def opened_part(path: Path) -> Iterator[tuple[Any, dict[str, tuple[int, ...]]]]:
    """Open a file: safetensors' own handle, and where each of its tensors begins in the whole.

    Raises
    ------
    DamagedPartError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file, _offsets(path, file)
    except (SafetensorError, OSError) as error:
        msg = f"{path.name}: {error}"
        raise DamagedPartError(msg) from error


def _offsets(path: Path, file: Any) -> dict[str, tuple[int, ...]]:
    try:
        found = json.loads((file.metadata() or {})[_PLACES])
        return {key: tuple(map(int, found[key][_OFFSETS])) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        msg = f"{path.name} does not say where its tensors belong ({error!r})"
        raise DamagedPartError(msg) from error


def _by_name(keys: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in sorted(keys):
        found.setdefault(key.partition("/")[0], []).append(key)
    return found


def _combined(keys: list[str], tensor: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(f"{key} {int(content_hash(tensor(key))) % (1 << 64):016x}\n".encode())
    return digest.hexdigest()
