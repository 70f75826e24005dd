"""Progress on stderr: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

__all__ = ["BarProgress", "LineProgress", "Progress", "QuietProgress", "progress_for"]

EVERY = 10.0  # seconds between two lines in a pipe
OnProgress = Callable[[Any], None]


class Progress(Protocol):
    """What a run tells of its steps."""

    def say(self, text: str) -> None:
        """Tell one line."""

    def job(self, label: str, number: int, count: int) -> contextlib.AbstractContextManager[OnProgress]:
        """Surround job `number` of `count`; gives what the driver calls with its events."""


class QuietProgress:
    """Tells nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    @contextlib.contextmanager
    def job(self, label: str, number: int, count: int) -> Iterator[OnProgress]:
        """Do nothing."""
        yield lambda _: None


class LineProgress:
    """A line at each job's end, and one every ten seconds in between.

    Parameters
    ----------
    stream : text stream
        Usually stderr.
    clock : callable
        Seconds, for tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def say(self, text: str) -> None:
        """Write a line."""
        print(f"curvkit: {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def job(self, label: str, number: int, count: int) -> Iterator[OnProgress]:
        """Write a line now and then, and one at the end."""
        start = said = self._clock()
        last: Any = None

        def on_progress(event: Any) -> None:
            nonlocal said, last
            last = event
            if self._clock() - said >= EVERY:
                said = self._clock()
                self.say(f"[{number}/{count}] {label}: {_words(event)}")

        yield on_progress
        products = f"{last.matvecs} products, " if last is not None else ""
        self.say(f"[{number}/{count}] {label}: {products}{self._clock() - start:.1f} s")


class BarProgress:
    """A bar a job, which becomes a line when the job is done.

    Parameters
    ----------
    stream : text stream
        A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(f"curvkit: {text}", markup=False)

    @contextlib.contextmanager
    def job(self, label: str, number: int, count: int) -> Iterator[OnProgress]:
        """Show a bar, then a line."""
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        start = time.monotonic()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        last: Any = None
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(f"[{number}/{count}] {label}", total=None, words="")

            def on_progress(event: Any) -> None:
                nonlocal last
                last = event
                bars.update(task, completed=event.done, total=event.total, words=_words(event, count=False))

            yield on_progress
        products = f"{last.matvecs} products, " if last is not None else ""
        self.say(f"[{number}/{count}] {label}: {products}{time.monotonic() - start:.1f} s")


def progress_for(stream: TextIO) -> Progress:
    """Return a bar for a terminal, lines for anything else."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def _words(event: Any, *, count: bool = True) -> str:
    of = f" of {event.total}" if event.total is not None else ""
    parts = [f"{event.done}{of} products", event.note]
    if count:
        parts.append(f"{event.seconds:.0f} s")
        if event.seconds_left is not None:
            parts.append(f"about {event.seconds_left:.0f} s left")
    return ", ".join(part for part in parts if part)
