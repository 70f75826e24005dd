"""Ctrl-C during a run: a multiplication ends at once, a change of state is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interrupts"]


class Interrupts:
    """What was asked for by Ctrl-C, and whether it has to wait."""

    def __init__(self) -> None:
        self.pending = False
        self._deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Python's handler for the length of a run."""
        if not self._deferred:
            raise KeyboardInterrupt
        self.pending = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish what is inside before anything is interrupted."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Own SIGINT for the run, in the main thread only and only if Python's own handler is in place."""
    found = Interrupts()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, found.handle)
    try:
        yield found
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
