"""Results that the run's own folder cannot take, written into the system's temporary directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.destination import Destination

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import Run
    from curvkit_core.runs.preparation import Job
    from curvkit_core.runs.run_state import RunState

__all__ = ["rescued"]


def rescued(run: Run, jobs: Sequence[Job], state: RunState, log: Iterable[Mapping[str, Any]]) -> Path | None:
    """Write a run into a new folder of the temporary directory, where a resumption could not bring all of it back.

    Tried once: eigenvectors of a day's work are worth a second place, and the numbers are printed in any case. Vectors
    that ranks have written come along from where they are: the run's folder, or a place in the temporary directory.

    Parameters
    ----------
    run : Run
        With its results.
    jobs : sequence of Job
        Those of the run, in the results' order.
    state : RunState
        Says what is kept.
    log : iterable of mapping
        The lines of ``log.jsonl``.

    Returns
    -------
    Path or None
        A run folder, without figures; None where all is kept, or this place takes nothing either.
    """
    from curvkit_core.runs.record import write_run

    begun = jobs[: len(run.results)]  # what follows them are slices of the loss, which are made anew
    if all(state.can_take_up(job) for job in begun):
        return None
    above: Path | None = None
    try:
        above = Path(tempfile.mkdtemp(prefix="curvkit-"))  # for the user's eyes alone
        return write_run(run, Destination(folder=above / run.folder.absolute().name), log)
    except OSError:
        if above is not None:
            shutil.rmtree(above, ignore_errors=True)
        return None
