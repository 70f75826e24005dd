"""Where a run's files go, and what is there already: nothing, a run, an unfinished one, or somebody else's files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.config.plain import plain
from curvkit_core.runs.lock import holder_of

__all__ = [
    "CHECKPOINT",
    "FINISHED",
    "LOCK",
    "MAY_DIFFER",
    "PLAN",
    "STARTED",
    "UNFINISHED",
    "Destination",
    "folder_kind",
    "next_numbered",
]

PLAN, CHECKPOINT, STARTED, LOCK = "plan.json", "checkpoint", "run.json", "lock"
MAY_DIFFER = ("budget", "checkpoint")  # sections that change what a run costs or when it stops, not what it finds
FREE, FINISHED, UNFINISHED, FOREIGN = "free", "finished", "unfinished", "foreign"


@frozen(kw_only=True)
class Destination:
    """Where a run's files go.

    Parameters
    ----------
    folder : Path
        The folder: one that does not exist yet, or is empty, or gives way, or holds the unfinished run to go on with.
    numbered : bool
        Whether the name was made here, ``runs/digits-3``: if somebody takes it meanwhile, the next one will do.
    force : bool
        Whether a run that is there already gives way.
    resume : bool
        Whether the folder holds an unfinished run to go on with.
    """

    folder: Path
    numbered: bool = False
    force: bool = False
    resume: bool = False

    @classmethod
    def choose(
        cls,
        run_file: str | Path,
        out: str | Path | None,
        *,
        force: bool = False,
        resume: bool = False,
        tables: Mapping[str, Any] | None = None,
    ) -> Destination:
        """Return the folder that ``--out`` names, or the next ``runs/<stem>-<number>``.

        Parameters
        ----------
        run_file : str or Path
            Names the numbered folders.
        out : str, Path or None
            What ``--out`` says.
        force : bool
            Whether a run that is there gives way.
        resume : bool
            Whether to go on with an unfinished run: the one in `out`, else the latest numbered one of the same
            `tables`. Where there is none, the run starts.
        tables : mapping or None
            The run file's tables.

        Raises
        ------
        ConfigError
            If the folder holds a run and `force` is not set, or holds anything else, or cannot be written.
        """
        stem = Path(run_file).stem or "run"
        if out is None:
            unfinished = _unfinished_numbered(Path("runs"), stem, tables) if resume else None
            folder = unfinished or next_numbered(Path("runs"), stem)
            _require(_objection(folder, str(folder), force=False, resume=unfinished is not None))
            return cls(folder=folder, numbered=unfinished is None, resume=unfinished is not None)
        folder = Path(out)
        if folder.name:
            put_back(folder)
        _require(_objection(folder, str(out), force=force, resume=resume))
        going_on = resume and not force and folder_kind(folder) == UNFINISHED
        return cls(folder=folder, force=force, resume=going_on)


def folder_kind(folder: Path) -> str:
    """Return ``"free"`` (not there, or empty), ``"finished"``, ``"unfinished"`` or ``"foreign"``.

    A folder whose run was stopped holds what was found so far *and* the state to go on from: it is unfinished.
    """
    if (folder / CHECKPOINT / STARTED).is_file():
        return UNFINISHED
    if _holds_run(folder):
        return FINISHED
    if not folder.exists():
        return FREE
    if not folder.is_dir():
        return FOREIGN
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return FREE if all(path == folder / CHECKPOINT / LOCK for path in files) else FOREIGN  # killed as it began


def put_back(folder: Path) -> None:
    """Undo a replacement that was cut between its two renames, so that nothing seems lost: the old folder is back."""
    if folder.exists() or not folder.parent.is_dir():
        return
    old = sorted(folder.parent.glob(f".{_escaped(folder.name)}.old-*"))
    if len(old) == 1:
        old[0].rename(folder)


def next_numbered(parent: Path, stem: str) -> Path:
    """Return ``parent/<stem>-<number>``, one above the highest number there."""
    prefix = f"{stem}-"
    return parent / f"{prefix}{max(_numbers(parent, prefix), default=0) + 1}"


def _numbers(parent: Path, prefix: str) -> list[int]:
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    endings = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [int(ending) for ending in endings if ending.isdecimal() and len(ending) < 10]


def _unfinished_numbered(parent: Path, stem: str, tables: Mapping[str, Any] | None) -> Path | None:
    wanted = _what_is_asked(json.loads(json.dumps(plain(tables or {}))))
    for number in sorted(_numbers(parent, f"{stem}-"), reverse=True):
        folder = parent / f"{stem}-{number}"
        try:
            started = json.loads((folder / CHECKPOINT / STARTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(started, dict) and _what_is_asked(started.get("tables")) == wanted:
            return folder
    return None


def _what_is_asked(tables: Any) -> dict[str, Any]:
    return {k: v for k, v in tables.items() if k not in MAY_DIFFER} if isinstance(tables, dict) else {}


def _holds_run(folder: Path) -> bool:
    try:
        return "schema" in json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _require(objection: str) -> None:
    if objection:
        raise ConfigError([Mistake("", objection)], "--out")


def _objection(folder: Path, name: str, *, force: bool, resume: bool) -> str:
    """Return why a run may not be written there, or an empty string."""
    if not name.strip() or not folder.name or folder.name == "..":
        return f"expected a new folder's name, got {name!r}"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return f"{name!r} exists and is no folder: choose another name"
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        return f"{name!r} cannot be made: {str(above)!r} is no folder"
    for place in (above, folder):  # above it too: the finished folder takes its place by a rename
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            return f"{name!r} cannot be written: {str(place)!r} is not writable"
    kind = folder_kind(folder)
    if holder := holder_of(folder / CHECKPOINT / LOCK):
        return f"{holder} is at work in {name!r}: wait for it, or choose another name"
    if kind == FOREIGN:
        return f"{name!r} holds files that are no run: choose another name"
    if kind == UNFINISHED and not (force or resume):
        return f"{name!r} holds an unfinished run: give --resume to go on with it, or --force to start again"
    if kind == FINISHED and not (force or resume):
        return f"{name!r} holds a run already: choose another name, or give --force"
    return ""


def _escaped(name: str) -> str:
    """A name as glob takes it literally."""
    import glob

    return glob.escape(name)
