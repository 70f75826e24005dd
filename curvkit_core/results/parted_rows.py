"""Vectors of a result that lie in a folder, in parts: where they are, and how a process comes by them.

Until they are read such a field is a tensor on torch's device ``"meta"``: it has the whole's shape and dtype and no
elements, costs no memory, and whatever would need its elements raises.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.results.encode import StoredResult
from curvkit_core.results.row_parts import DamagedPartError, read_parts

if TYPE_CHECKING:
    from curvkit_core.backends import StoresRows, VectorSpace

__all__ = ["PartedRows", "link_or_copy", "rows_of", "with_tensors"]


@frozen(kw_only=True, eq=False)
class PartedRows:
    """The vectors of one result, in a folder of files that :mod:`curvkit_core.results.row_parts` describes.

    Parameters
    ----------
    folder : Path
        Where the files are.
    layout : tuple of (str, int)
        The parameters in the vectors' order, with their sizes.
    files : mapping of str to mapping
        By name in the folder: ``bytes``, and ``hashes`` by the vectors' name.
    rows : mapping of str to (tuple of int, torch.dtype)
        Whole shapes (..., n) and dtypes, by the dotted name of the result's field: ``eigenvectors``, ``bases.0``.
    """

    folder: Path
    layout: tuple[tuple[str, int], ...]
    files: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, tuple[tuple[int, ...], torch.dtype]]

    def record(self) -> dict[str, Any]:
        """All but the folder, as JSON has it."""
        rows = {
            name: {"shape": list(shape), "dtype": str(kind).removeprefix("torch.")}
            for name, (shape, kind) in self.rows.items()
        }
        return {"layout": dict(self.layout), "files": dict(self.files), "rows": rows}

    @classmethod
    def of_record(cls, folder: Path, record: Any) -> PartedRows:
        """What :meth:`record` gave; a name that would lead out of the folder is refused.

        Raises
        ------
        DamagedPartError
            If `record` is no such record.
        """
        try:
            files = {_plain(name): _facts(facts) for name, facts in record["files"].items()}
            layout = tuple((str(name), _size(numel)) for name, numel in record["layout"].items())
            rows = {
                str(name): (tuple(_size(size) for size in told["shape"]), _dtype(told["dtype"]))
                for name, told in record["rows"].items()
            }
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            msg = f"what is said of the vectors in {folder} is damaged: {type(error).__name__}: {error}."
            raise DamagedPartError(msg) from error
        return cls(folder=folder, layout=layout, files=files, rows=rows)

    @classmethod
    def written(cls, folder: Path, rows: Mapping[str, Tensor], space: VectorSpace) -> PartedRows | None:
        """Write vectors into an empty folder, all ranks together, each its part; on the rank that writes, say where.

        `space` is a :class:`curvkit_core.backends.StoresRows`.

        Raises
        ------
        Exception
            On every rank, where one cannot write: there its own, a RankError on the others.
        """
        on_cpu = {_in_files(name): own.detach().to("cpu") for name, own in rows.items()}  # as checkpoints give them
        files = cast("StoresRows", space).write_rows(folder, on_cpu)
        if not space.writes:
            return None
        if (total := sum(numel for _, numel in space.layout)) != space.n:
            msg = f"{type(space).__name__}.layout has {total} elements, expected n={space.n}: those of all ranks."
            raise ValueError(msg)
        shapes = {name: ((*own.shape[:-1], space.n), own.dtype) for name, own in rows.items()}
        return cls(folder=folder, layout=space.layout, files=files, rows=shapes)

    def check_sizes(self) -> None:
        """Look that all files are there, and as long as they were; their contents are not read.

        Raises
        ------
        DamagedPartError
            With the file's name.
        """
        for name, facts in self.files.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != facts["bytes"]:
                seen = "is not there" if size is None else f"has {size} bytes"
                msg = f"{path} {seen}, expected {facts['bytes']} bytes."
                raise DamagedPartError(msg)

    def meta(self, name: str) -> Tensor:
        """The vectors' shape and dtype, without elements."""
        shape, kind = self.rows[name]
        return torch.empty(shape, dtype=kind, device="meta")

    def whole(self, name: str) -> Tensor:
        """The whole vectors, on the CPU of this process.

        Raises
        ------
        DamagedPartError
            If a file is missing, or not what was written.
        """
        with self._naming_the_folder():
            found = read_parts(self.folder, _in_files(name), self.files, self.layout)
        return self._checked(name, found, tuple(found.shape))

    def own(self, name: str, space: VectorSpace) -> Tensor:
        """This rank's part, as `space` cuts vectors; its ranks call together. In a space of one process it is whole.

        Raises
        ------
        ValueError
            On all ranks, if a file is missing, or not what was written, or `space` is one of other vectors.
        """
        self.require(space)
        with self._naming_the_folder():
            # a StoresRows, by its methods: the protocol stands beside this package, and cannot be imported here
            if hasattr(space, "read_rows"):
                found = cast("StoresRows", space).read_rows(self.folder, _in_files(name), self.files)
            else:
                found = space.own_rows(read_parts(self.folder, _in_files(name), self.files, space.layout))
        return self._checked(name, found, (*found.shape[:-1], space.n))

    def fits(self, space: VectorSpace) -> bool:
        """Whether `space` has vectors over the same parameters, in whatever order."""
        return dict(self.layout) == dict(space.layout)

    def require(self, space: VectorSpace) -> None:
        """Refuse a space of other vectors.

        Raises
        ------
        ValueError
            If `space` does not fit.
        """
        if not self.fits(space):
            msg = (
                f"the vectors in {self.folder} are over {_described(self.layout)}, the space's over "
                f"{_described(space.layout)}. Pass the space of the operator that they belong to."
            )
            raise ValueError(msg)

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """A run has several folders whose files have the same names."""
        try:
            yield
        except DamagedPartError as error:
            msg = f"{self.folder}: {error}"
            raise DamagedPartError(msg) from error

    def _checked(self, name: str, found: Tensor, whole: tuple[int, ...]) -> Tensor:
        shape, kind = self.rows[name]
        if whole != shape or found.dtype != kind:
            msg = f"{self.folder} has {name!r} of shape {whole} and {found.dtype}, expected {shape} and {kind}"
            raise DamagedPartError(msg)
        return found

    def copied_to(self, folder: Path) -> PartedRows:
        """Put the files into a new folder as well: by links, which cost nothing, else by copies.

        Raises
        ------
        OSError
            If that fails.
        """
        folder.mkdir()
        for name in self.files:
            link_or_copy(self.folder / name, folder / name)
        return attrs.evolve(self, folder=folder)


def link_or_copy(source: str | Path, target: str | Path) -> str:
    """Give a file a second name, or a copy where the file system has no links, or it is another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return str(target)


def rows_of(result: Any, space: VectorSpace) -> dict[str, Tensor]:
    """The tensors of a result that hold vectors, by the dotted names of their fields; all ranks call it together.

    Raises
    ------
    ValueError
        If two have one name: keys with dots.
    """
    found: dict[str, Tensor] = {}

    def look(name: str, tensor: Tensor) -> Tensor:
        if space.is_rows(tensor) and tensor.is_floating_point():
            if name in found:
                msg = f"two fields of vectors are called {name!r}: field names with dots cannot be told apart"
                raise ValueError(msg)
            found[name] = tensor
        return tensor

    with_tensors(result, look)
    return found


def with_tensors(value: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """Give a result with its tensors changed, named as in ``result.json``; what is unchanged stays the same object.

    Parameters
    ----------
    value : object
        A result, or a part of one.
    change : callable
        ``change(dotted name, tensor) -> tensor``.
    name : str
        Of `value`.
    """
    above = f"{name}." if name else ""

    def inside(items: Mapping[str, Any]) -> dict[str, Any]:
        return {key: with_tensors(item, change, f"{above}{key}") for key, item in items.items()}

    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, StoredResult):
        return StoredResult(value.type_name, inside(value))
    if attrs.has(type(value)):
        fields = {f.name: (f, getattr(value, f.name)) for f in attrs.fields(type(value))}
        new = inside({key: old for key, (_, old) in fields.items()})
        changes = {f.alias: new[key] for key, (f, old) in fields.items() if new[key] is not old}
        return attrs.evolve(value, **changes) if changes else value
    if isinstance(value, (tuple, list)):
        items = [with_tensors(item, change, f"{above}{i}") for i, item in enumerate(value)]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    if isinstance(value, Mapping):
        changed = inside(value)
        return value if all(changed[key] is value[key] for key in value) else changed
    return value


def _in_files(name: str) -> str:
    """What follows a stroke in the files is a parameter."""
    return name.replace("%", "%25").replace("/", "%2F")


def _plain(name: str) -> str:
    if Path(name).name != name or name in ("", ".", ".."):
        msg = f"{name!r} is no file's name"
        raise ValueError(msg)
    return name


def _facts(facts: Any) -> dict[str, Any]:
    return {"bytes": int(facts["bytes"]), "hashes": {str(k): str(v) for k, v in facts["hashes"].items()}}


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        msg = f"{value!r} is no size"
        raise ValueError(msg)
    return value


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        msg = f"{name!r} is no dtype"
        raise ValueError(msg)
    return found


def _described(layout: tuple[tuple[str, int], ...]) -> str:
    names = [name for name, _ in layout]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} parameters ({shown}), n = {sum(numel for _, numel in layout)}"
