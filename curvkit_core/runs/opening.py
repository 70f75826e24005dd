"""A stored run as the command line opens it: what is wrong with the folder is one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.runs.outcome import Run

__all__ = ["opened_for_reading"]


def opened_for_reading(folder: str | Path, *, vectors: bool = False) -> Run:
    """Return a stored run.

    Parameters
    ----------
    folder : str or Path
        Its folder.
    vectors : bool
        Whether those that lie in parts are read: all of them may be more than this machine has memory for.

    Returns
    -------
    Run
        As :func:`open_run` gives it, or with shapes where vectors are not read.

    Raises
    ------
    ConfigError
        If the folder is not there, holds no run, or one that is damaged or newer.
    """
    from curvkit_core.runs.record import open_left_on_disk, open_run

    path = Path(folder)
    if not path.is_dir():
        what = "is a file" if path.is_file() else "is not there"
        raise ConfigError([Mistake("", f"{what}: expected the folder of a run")], str(folder))
    try:
        return open_run(path) if vectors else open_left_on_disk(path)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([Mistake("", str(error))], str(folder)) from error
