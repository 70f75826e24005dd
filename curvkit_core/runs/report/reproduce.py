"""How to run it again: the run file with every seed in it, the command, and what was installed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from curvkit_core.config import to_toml

__all__ = ["reproducing_toml"]

_PLACE = re.compile(r"\$\.(\w+)(?:\[(\d+)\])?")


def reproducing_toml(plan: Mapping[str, Any]) -> str:
    """Return a run file that makes the same run: the original's tables, with the seeds that were drawn for it.

    Parameters
    ----------
    plan : mapping
        What ``plan.json`` holds.

    Returns
    -------
    str
        TOML; empty for a plan that does not hold its tables (written before they were kept).
    """
    tables = copy.deepcopy(dict(plan.get("tables") or {}))
    if not tables:
        return ""
    for place, seed in dict(plan.get("seeds") or {}).items():
        match = _PLACE.fullmatch(str(place))
        section = tables.get(match[1]) if match else None
        if match and match[2] is not None and isinstance(section, list) and int(match[2]) < len(section):
            section = section[int(match[2])]
        if isinstance(section, dict):
            section["seed"] = seed
    return to_toml(tables)
