"""Whether a kernel can run here: asked for on demand, never while plugins are listed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

__all__ = ["compiler", "triton"]

_C = ("cc", "gcc", "clang")
_CXX = ("g++", "c++", "clang++")


def triton() -> tuple[bool, str]:
    """Triton, a device for it, and the C compiler that its launcher is built with."""
    if importlib.util.find_spec("triton") is None:  # not by its distribution, of which ROCm's has another name
        return False, "triton is not installed"
    import torch

    if not torch.cuda.is_available():
        return False, "no CUDA device"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        return False, f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    if not _found(os.environ.get("CC"), _C):
        return False, f"no C compiler ({', '.join(_C)}), which Triton's launcher needs"
    return True, ""


def compiler() -> tuple[bool, str]:
    """The C++ compiler that ``torch.compile`` needs."""
    if sys.platform == "win32":
        return False, "torch.compile is not used on Windows"
    if not _found(os.environ.get("CXX"), _CXX):
        return False, f"no C++ compiler ({', '.join(_CXX)})"
    return True, ""


def _found(named: str | None, usual: tuple[str, ...]) -> bool:
    return any(shutil.which(name) for name in ([named.split()[0]] if named and named.split() else usual))
