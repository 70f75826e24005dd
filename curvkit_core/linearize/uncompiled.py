"""Parts of a model that are compiled run as they were written, for as long as curvature is computed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["uncompiled"]


@contextmanager
def uncompiled() -> Iterator[None]:
    """Surround a forward and its backward passes: what ``torch.compile`` makes has no double backward (torch 2.13).

    Submodules, a forward or functions that the user has compiled are as they were afterwards; nothing is compiled.
    """
    if "torch._dynamo" not in sys.modules:  # importing it takes a second, and nothing has been compiled without it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
