"""Whether a backend of many ranks can run here; imports no torch."""

from __future__ import annotations

import importlib.util
import os

__all__ = ["launched"]


def launched() -> tuple[bool, str]:
    """Whether a launcher has started this process as one of several; reads the environment."""
    if importlib.util.find_spec("torch.distributed") is None:
        return False, "torch.distributed is not there"
    size = os.environ.get("WORLD_SIZE", "")
    if not size.isdigit() or "RANK" not in os.environ:
        return False, "one process: torchrun starts several"
    return (True, "") if int(size) > 1 else (False, "the launcher started one process only")
