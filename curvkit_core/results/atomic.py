"""Files and folders that appear whole or not at all: written beside their place, synced, renamed into it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_folder", "sync_file", "temporary_folder", "write_bytes", "write_text"]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, newlines as given) whole or not at all; an old one is replaced."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; an old one is replaced.

    Parameters
    ----------
    path : str or Path
        Its folder must exist.
    data : bytes
        The content.

    Raises
    ------
    OSError
        If it cannot be written; then the old file is as it was.
    """
    path = Path(path)
    temporary = _beside(path, "tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False, token: str | None = None) -> Iterator[Path]:
    """Give a temporary folder to fill: it becomes `path` when the block ends well, else it vanishes.

    Parameters
    ----------
    path : str or Path
        The folder to appear. Missing parents are made, and removed again where the block fails.
    replace : bool
        Whether a folder that is there already gives way. It stays until the new one is whole; between the two
        renames that swap them, `path` is absent for a moment.
    token : str or None
        Ends the temporary folder's name, for other processes that write into it (:func:`temporary_folder`). None: it is
        drawn.

    Yields
    ------
    Path
        The temporary folder, beside `path`, on the same file system.

    Raises
    ------
    FileExistsError
        If `path` exists when the new folder is whole, is not an empty folder, and `replace` is false.
    OSError
        If it cannot be written.
    """
    path = Path(path)
    _refuse_existing(path, replace=replace)
    made = _make_parents(path.parent)
    temporary = _beside(path, "tmp", token)
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                sync_file(Path(folder, name))
            _sync_folder(Path(folder))
        _move_into_place(temporary, path, replace=replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in reversed(made):
            with contextlib.suppress(OSError):  # somebody else's file stands in it by now
                parent.rmdir()
        raise
    _sync_folder(path.parent)


def temporary_folder(path: str | Path, token: str) -> Path:
    """Where :func:`atomic_folder` has its temporary folder for that token."""
    return _beside(Path(path), "tmp", token)


def _move_into_place(temporary: Path, path: Path, *, replace: bool) -> None:
    _refuse_existing(path, replace=replace)
    if not path.is_dir() or path.is_symlink():
        temporary.rename(path)
        return
    old = _beside(path, "old")
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_existing(path: Path, *, replace: bool) -> None:
    if not path.is_symlink() and not path.exists():
        return
    if path.is_dir() and not path.is_symlink() and (replace or not any(path.iterdir())):
        return
    what = "is not a folder" if not path.is_dir() or path.is_symlink() else "is not empty"
    msg = f"{path} exists and {what}: nothing was written. Choose another name."
    raise FileExistsError(msg)


def _make_parents(folder: Path) -> list[Path]:
    missing = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _beside(path: Path, what: str, token: str | None = None) -> Path:
    return path.with_name(f".{path.name}.{what}-{secrets.token_hex(4) if token is None else token}")


def sync_file(path: Path) -> None:
    """Make what was written to a file last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows, where folders cannot be opened, sees to it itself."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
        sync_file(folder)
