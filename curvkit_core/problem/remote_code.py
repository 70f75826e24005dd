"""Whether code that comes with a model may be run: the user's own command line says so, for one run, and nobody else.

A run file may come from anyone, so no option in it can allow this; builders of problems ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["allow_remote_code", "remote_code_allowed"]

_allowed: ContextVar[bool] = ContextVar("remote_code_allowed", default=False)


def remote_code_allowed() -> bool:
    """Whether the model's own code may run. False, except inside ``allow_remote_code(True)``."""
    return _allowed.get()


@contextmanager
def allow_remote_code(allowed: bool) -> Iterator[None]:
    """Say for the length of the context whether a model's own code may run, as ``--trust-remote-code`` does."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)
