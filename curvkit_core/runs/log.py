"""What happened when: the lines of ``log.jsonl``, gathered while a run goes on."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curvkit_core.runs.progress import OnProgress, Progress

__all__ = ["RunLog"]

EVERY = 1.0  # seconds between two progress lines of one job


class RunLog:
    """A progress that writes down all it is told and passes it on.

    Parameters
    ----------
    shown : Progress
        What the user sees.
    clock : callable
        Seconds, for tests.
    """

    def __init__(self, shown: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.lines: list[dict[str, Any]] = []
        self._shown = shown
        self._clock = clock
        self._start = clock()
        self._file: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Write every line into a file as it comes, after those that are there: they are the log's first lines.

        A run that is killed leaves its log behind so. A line that was cut, or a disk that is full, costs the line.
        """
        before, here = [], self.lines
        with contextlib.suppress(OSError):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    before.append(json.loads(text))
        self.lines = [*before, *here]
        self._file = path
        self._append(here)

    def add(self, event: str, **facts: Any) -> None:
        """Write one line down; nothing is shown."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        seconds = round(self._clock() - self._start, 4)
        self.lines.append({"time": now, "seconds": seconds, "event": event, **facts})
        self._append(self.lines[-1:])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError), self._file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(line, default=str) + "\n" for line in lines)

    def say(self, text: str) -> None:
        """Write a line down and show it."""
        self.add("note", text=text)
        self._shown.say(text)

    @contextlib.contextmanager
    def job(self, label: str, number: int, count: int) -> Iterator[OnProgress]:
        """Write down a job's start, its progress now and then, and its end."""
        self.add("job started", job=label, number=number, of=count)
        said = self._clock()
        last: Any = None
        with self._shown.job(label, number, count) as show:

            def on_progress(event: Any) -> None:
                nonlocal said, last
                last = event
                if self._clock() - said >= EVERY:
                    said = self._clock()
                    self.add("progress", job=label, products=event.matvecs, done=event.done, total=event.total)
                show(event)

            yield on_progress
        self.add("job finished", job=label, products=last.matvecs if last is not None else 0)
