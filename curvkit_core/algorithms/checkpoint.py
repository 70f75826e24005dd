"""Checkpoints of a run: a folder in which a state appears whole or not at all, and from which a run goes on.

Each save writes the state's tensors, the basis rows appended since the last save, and last of all a manifest that names
every file with its size and every tensor with a hash of its bytes. The two newest manifests stay, with the files they
name: where the newest does not hold what it says, the one before it is used. Files are written beside their place,
synced and renamed.

A space that :class:`StoresRows` has its vectors in folders, a file a rank; else one rank writes them whole. Either is
taken up by whatever space the run goes on with.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.identity import differences
from curvkit_core.algorithms.state_codec import Encoded, StateError, decode_state, encode_state
from curvkit_core.backends import StoresRows, VectorSpace
from curvkit_core.errors import CurvkitError
from curvkit_core.hashing import content_hash
from curvkit_core.results.atomic import sync_file, write_text
from curvkit_core.results.row_parts import DamagedPartError, read_parts

__all__ = ["CheckpointError", "CheckpointFolder", "SavedRun"]

_log = logging.getLogger("curvkit")
_SCHEMA = 1
_KEPT = 2  # manifests
_OURS = re.compile(r"\.?(rows|state)-\d{6,}(-\d+|-state)?(\.safetensors)?(\.tmp)?")
_WHOLE = ".safetensors"  # a file of whole rows; a name without it is a folder of parts
_PIECE = 1 << 28  # bytes of a basis copied and written at once
_FAILED = 2  # what ranks agree on; a Ctrl-C counts as 1 there

# "file" (or a folder, of parts), "name" in it, "rows": where the rows of a basis are, in order
Parts = list[dict[str, Any]]


class CheckpointError(CurvkitError):
    """A folder's checkpoints cannot be used for this run."""


class _DamagedError(Exception):
    """A manifest, or a file it names, is not what was written."""


@frozen(kw_only=True, eq=False)
class SavedRun:
    """What a checkpoint holds: the state, the driver's own counts, and what its last bits depend on."""

    state: Any
    matvecs: int
    seconds: float
    width: int
    circumstances: Mapping[str, Any]


@define(eq=False)
class CheckpointFolder:
    """A folder of checkpoints of one run.

    Parameters
    ----------
    path : Path
        Made at the first save.
    identity : mapping
        What a checkpoint must match.
    """

    path: Path
    identity: Mapping[str, Any]
    _number: int = field(default=0, init=False)
    _rows: dict[str, tuple[int, Parts]] = field(factory=dict, init=False)  # by basis: generation, where its rows are
    _files: dict[str, dict[str, Any]] = field(factory=dict, init=False)  # what the newest manifest says of each
    _failed: Exception | None = field(default=None, init=False)  # of the save under way, where this rank writes

    def manifests(self) -> list[Path]:
        """The manifests that are there, newest first."""
        return sorted(self.path.glob("checkpoint-*.json"), reverse=True)

    def load(self, algorithm: Any, space: VectorSpace) -> SavedRun | None:
        """The newest whole checkpoint; None where there is none at all.

        Raises
        ------
        CheckpointError
            If none of those that are there is whole, or if it is of another run or of a newer version. If the ranks see
            different ones.
        """
        manifests = self.manifests()
        newest = _number_of(manifests[0]) if manifests else 0
        if space.agree(_FAILED * (space.agree(newest) != newest)) == _FAILED:
            msg = (
                f"the ranks do not see the same checkpoints in {self.path}: here the newest is number {newest}. Pass a "
                "folder that all of them see."
            )
            raise CheckpointError(msg)
        broken: list[str] = []
        for manifest in manifests:
            try:
                found = self._read(manifest, algorithm, space)
            except _DamagedError as error:
                broken.append(f"{manifest.name}: {error}")
                continue
            for line in broken:
                _log.warning("checkpoint damaged, the one before it is used: %s", line)
            return found
        if broken:
            msg = (
                f"no checkpoint in {self.path} is whole ({'; '.join(broken)}). "
                "Delete the folder, or pass another one, to start again."
            )
            raise CheckpointError(msg)
        return None

    def save(self, run: SavedRun, space: VectorSpace) -> None:
        """Write a checkpoint; when this returns it is there, and the one before it still is.

        Of several ranks one writes all that is no vector, and vectors too where the space does not store them itself.
        Any number of ranks that see the folder may read it.

        Raises
        ------
        OSError, safetensors.SafetensorError
            On the rank that writes, if it cannot.
        CheckpointError
            On the others.
        """
        self._number += 1
        self._failed = None
        encoded = encode_state(run.state, space)
        self._where_written(space, lambda: self.path.mkdir(parents=True, exist_ok=True))
        vectors = {path: encoded.tensors[path] for path in sorted(encoded.rows)}
        others = {path: t for path, t in encoded.tensors.items() if path not in vectors}
        written: dict[str, dict[str, Any]] = {}
        apart = f"rows-{self._number:06d}-state" if vectors and isinstance(space, StoresRows) else None
        if apart is not None:
            written |= self._write_rows(apart, vectors, space)
        else:
            others |= {path: space.whole_rows(t) for path, t in vectors.items()}
        written |= self._write(_state_file(self._number), others, space)
        written |= self._write_new_rows(encoded.bases, space)
        self._where_written(space, lambda: self._write_manifest(run, encoded, apart, written))
        if space.agree(_FAILED * (self._failed is not None)) == _FAILED:
            if self._failed is not None:
                raise self._failed
            msg = f"the rank that writes the checkpoints in {self.path} could not: its own error says why."
            raise CheckpointError(msg)

    def _write_manifest(
        self, run: SavedRun, encoded: Encoded, apart: str | None, written: dict[str, dict[str, Any]]
    ) -> None:
        bases = {path: self._rows[path][1] for path in encoded.bases}
        named = {part["file"] for parts in bases.values() for part in parts}
        files = {name: facts for name, facts in self._files.items() if name.partition("/")[0] in named} | written
        manifest = {
            "schema": _SCHEMA,
            "identity": self.identity,
            "circumstances": dict(run.circumstances),
            "matvecs": run.matvecs,
            "seconds": run.seconds,
            "width": run.width,
            "state": encoded.document,
            "vectors": apart,
            "bases": bases,
            "files": files,
        }
        write_text(self.path / f"checkpoint-{self._number:06d}.json", json.dumps(manifest, indent=1) + "\n")
        self._files = files
        self._clean()

    def _write_new_rows(self, bases: Mapping[str, Basis], space: VectorSpace) -> dict[str, dict[str, Any]]:
        """Write what was appended to each basis since it was last written; all of it after a change in place."""
        written: dict[str, dict[str, Any]] = {}
        number = 0
        for path, basis in bases.items():
            generation, parts = self._rows.get(path, (-1, []))
            parts = list(parts) if generation == basis.generation else []
            done = sum(part["rows"] for part in parts)
            while done < basis.size:
                nbytes = basis.blocks[0].dtype.itemsize * space.n  # of a whole row: the same on every rank
                rows = min(basis.size - done, max(1, _PIECE // max(1, nbytes)))
                file = f"rows-{self._number:06d}-{number}" + ("" if isinstance(space, StoresRows) else _WHOLE)
                name = f"{path}@{done}"
                written |= self._write_rows(file, {name: basis.stored(done, done + rows)}, space)
                parts.append({"file": file, "name": name, "rows": rows})
                done += rows
                number += 1
            self._rows[path] = (basis.generation, parts)
        return written

    def _write_rows(self, name: str, rows: Mapping[str, Tensor], space: VectorSpace) -> dict[str, dict[str, Any]]:
        """Write vectors: gathered in a file, or in a folder that all ranks fill, each with its part."""
        if not isinstance(space, StoresRows):
            return self._write(name, {key: space.whole_rows(t) for key, t in rows.items()}, space)
        folder, temporary = self.path / name, self.path / f".{name}.tmp"

        def emptied() -> None:
            for left_over in (folder, temporary):  # by a save that no manifest came of
                shutil.rmtree(left_over, ignore_errors=True)
            temporary.mkdir()

        self._where_written(space, emptied)
        if space.agree(_FAILED * (self._failed is not None)) == _FAILED:
            return {}

        def placed() -> None:
            with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
                sync_file(temporary)
            temporary.rename(folder)

        facts = space.write_rows(temporary, rows)
        self._where_written(space, placed)
        return {f"{name}/{file}": dict(known) for file, known in facts.items()}

    def _write(self, name: str, tensors: Mapping[str, Tensor], space: VectorSpace) -> dict[str, dict[str, Any]]:
        from safetensors.torch import save_file

        written: dict[str, dict[str, Any]] = {}

        def write() -> None:
            temporary = self.path / f".{name}.tmp"
            save_file(_apart(tensors), temporary)
            sync_file(temporary)
            temporary.replace(self.path / name)
            hashes = {key: _hash(t) for key, t in tensors.items()}
            written[name] = {"bytes": (self.path / name).stat().st_size, "hashes": hashes}

        if tensors:
            self._where_written(space, write)
        return written

    def _where_written(self, space: VectorSpace, action: Callable[[], object]) -> None:
        """Act on the rank that writes. Where that fails it goes on in step with the others, and says so at the end."""
        if not space.writes or self._failed is not None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - raised when all ranks can be told
            self._failed = error

    def _clean(self) -> None:
        """Remove what the newest two manifests do not name."""
        manifests = self.manifests()
        named: set[str] = set()
        for manifest in manifests[:_KEPT]:
            try:
                files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
                named |= {name.partition("/")[0] for name in files}
            except (OSError, ValueError, KeyError):
                return
        for manifest in manifests[_KEPT:]:
            manifest.unlink(missing_ok=True)
        for file in self.path.iterdir():  # ours alone: others may keep files in the same folder
            if not _OURS.fullmatch(file.name) or file.name in named:
                continue
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)

    def _read(self, manifest: Path, algorithm: Any, space: VectorSpace) -> SavedRun:
        document = _parsed(manifest)
        schema = document.get("schema")
        if not isinstance(schema, int) or schema > _SCHEMA:
            msg = (
                f"{manifest} has schema {schema!r}, this curvkit-core reads {_SCHEMA}: a newer version has written it. "
                "Upgrade curvkit-core, or pass another folder."
            )
            raise CheckpointError(msg)
        # one rank compares for all: another's data, where it cannot be hashed over ranks, is other data
        lines = differences(document["identity"], _through_json(self.identity)) if space.writes else []
        if space.agree(_FAILED * bool(lines)) == _FAILED:
            more = f" and {len(lines) - 4} more" if len(lines) > 4 else ""
            what = f"{'; '.join(lines[:4])}{more}" if lines else "The rank that writes says what differs"
            msg = (
                f"{manifest} is of another run. {what}. Pass another folder, or what the run was "
                "started with; budgets (max_matvecs= and max_seconds= of run) may differ."
            )
            raise CheckpointError(msg)
        for name, facts in document["files"].items():
            self._check_size(name, facts["bytes"])
        own, files = _state_file(_number_of(manifest)), document["files"]
        apart = document.get("vectors") or own

        def tensor(path: str) -> Tensor:
            return self._tensor(own, path, files)

        def vectors(path: str) -> Tensor:
            return self._own_rows(apart, path, files, space)

        def basis_rows(path: str) -> Iterator[Tensor]:  # one part after the other: a basis is large
            return (self._own_rows(part["file"], part["name"], files, space) for part in document["bases"][path])

        try:
            state = decode_state(document["state"], algorithm, space, tensor, basis_rows, vectors)
        except StateError as error:
            msg = f"{manifest}: {error}"
            raise CheckpointError(msg) from error
        except KeyError as error:
            msg = f"{error} is missing"
            raise _DamagedError(msg) from error
        # rows that are there are not written again: numbers go on after the highest, damaged ones included
        self._number = max(_number_of(path) for path in self.manifests())
        self._files = dict(document["files"])
        bases = encode_state(state).bases
        self._rows = {path: (basis.generation, document["bases"][path]) for path, basis in bases.items()}
        return SavedRun(
            state=state,
            matvecs=document["matvecs"],
            seconds=document["seconds"],
            width=document["width"],
            circumstances=document["circumstances"],
        )

    def _check_size(self, name: str, expected: int) -> None:
        file = self.path / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected:
            msg = f"{name} {'is not there' if size is None else f'has {size} bytes'}, expected {expected} bytes"
            raise _DamagedError(msg)

    def _own_rows(self, name: str, key: str, files: Mapping[str, Any], space: VectorSpace) -> Tensor:
        """This rank's part of stored vectors, from a file of whole ones or a folder of parts."""
        if name.endswith(_WHOLE):
            return space.own_rows(self._tensor(name, key, files))
        parts = {file.partition("/")[2]: facts for file, facts in files.items() if file.startswith(f"{name}/")}
        try:
            if isinstance(space, StoresRows):
                return space.read_rows(self.path / name, key, parts)
            return space.own_rows(read_parts(self.path / name, key, parts, space.layout))
        except DamagedPartError as error:
            raise _DamagedError(str(error)) from error

    def _tensor(self, name: str, key: str, files: Mapping[str, Any]) -> Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / name, framework="pt") as file:
                found: Tensor = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            msg = f"{name}: {error}"
            raise _DamagedError(msg) from error
        if _hash(found) != files[name]["hashes"][key]:
            msg = f"{name}: the bytes of {key!r} are not those that were written"
            raise _DamagedError(msg)
        return found


def _parsed(manifest: Path) -> dict[str, Any]:
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError(str(error)) from error
    needed = {"identity", "circumstances", "matvecs", "seconds", "width", "state", "bases", "files"}
    if not isinstance(document, dict) or "schema" not in document:
        msg = "it is no checkpoint"
        raise _DamagedError(msg)
    if document["schema"] == _SCHEMA and (missing := sorted(needed - set(document))):
        msg = f"it has no {missing[0]!r}"
        raise _DamagedError(msg)
    return document


def _number_of(manifest: Path) -> int:
    text = manifest.stem.removeprefix("checkpoint-")
    return int(text) if text.isdigit() else 0


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with copies of those that share memory, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for key, t in tensors.items():
        place, whole = t.untyped_storage().data_ptr(), t.untyped_storage().nbytes() == t.nbytes
        apart[key] = t if whole and place not in seen else t.clone()
        seen.add(place)
    return apart


def _state_file(number: int) -> str:
    return f"state-{number:06d}.safetensors"


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _hash(tensor: Tensor) -> str:
    return f"{int(content_hash(tensor)) % (1 << 64):016x}"
