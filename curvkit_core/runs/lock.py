"""One run at a time in a folder: a lock that the operating system drops when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from curvkit_core.errors import CurvkitError

__all__ = ["FolderBusyError", "folder_lock", "holder_of"]


class FolderBusyError(CurvkitError):
    """Another process is at work in a folder."""


@contextlib.contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block; after ``kill -9`` or a reboot it is free again.

    Parameters
    ----------
    path : Path
        The lock file, made where it is not there, and left there: its holder writes who it is into it.

    Raises
    ------
    FolderBusyError
        If another process holds it, or took the folder away while this one was waiting for it.
    OSError
        If the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _locked(descriptor) or not _still_there(descriptor, path):
            msg = f"{path.parent}: {_holder(path)} is at work in this folder. Wait for it, or choose another folder."
            raise FolderBusyError(msg)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> str:
    """Return who holds a lock file, ``process 71 on host``, or an empty string where nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if _locked(descriptor) else _holder(path)
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: two runs in one folder are not told apart there
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether the name still means the file that was locked, and not one that has taken its place meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
