"""How much memory there is, and how much a user allows: bytes, or "8GiB"."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

__all__ = ["SHARE_OF_FREE", "free_memory", "parse_bytes"]

#: What kept graphs may take of the memory that is free when the first one is built, where no budget is given.
SHARE_OF_FREE = 0.5

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_bytes(budget: int | str | None) -> int | None:
    """Read a memory budget: None, bytes, or a text such as ``"8GiB"``, ``"500 MB"``."""
    if budget is None:
        return None
    if isinstance(budget, str):
        found = _TEXT.fullmatch(budget)
        if found:
            return int(float(found[1]) * _UNITS[(found[2] or "").lower()])
    elif isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0:
        return budget
    msg = f"memory_budget={budget!r}: expected a number of bytes, or a text such as '8GiB' or '500MB'."
    raise ValueError(msg)


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on `device` now; on the CPU what the system says is available."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        # no such count (macOS, Windows): a quarter of all there is, as a careful guess
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 2 * 2**30
