"""A run file and the command line's settings, read together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curvkit_core.config import apply_settings, read_toml


def read_run_file(path: str | Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Return a run file's tables with ``--set`` applied.

    Parameters
    ----------
    path : str or Path
        The file.
    settings : iterable of str
        ``algorithm.0.k=20``.

    Returns
    -------
    dict
        For :func:`make_plan`.

    Raises
    ------
    ConfigError
        If the file cannot be read or a setting has no place in it.
    """
    return apply_settings(read_toml(path), settings)
