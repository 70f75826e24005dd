"""What the conformance checks try the backends on: one process is a group of one, where no launcher has made a larger.

The checks that run in this process hold the backend as rank 0 of 1; those of two ranks start their own processes. The
laws that need a sharded model on several ranks are held by this plugin's own tests.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from curvkit_core.testing import Case

__all__ = ["CASES", "cases_alone", "group_of_one"]

CASES = (
    # their probe asks for several ranks, which one process is not: it is tried all the same
    Case(component="ddp/replicated", assume_available=True),
    Case(
        component="ddp/sharded",
        assume_available=True,
        expected_failed={
            "backend-product": "it takes models whose parameters are sharded, and the kit's are plain tensors",
        },
    ),
)


@contextmanager
def group_of_one() -> Iterator[None]:
    """A process group of this process alone, where there is none; it is closed at the end if it was made here."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def cases_alone() -> tuple[Case, ...]:
    """The cases, with a process group of one for as long as this process lives: what ``curvkit check ddp`` reads."""
    if not dist.is_initialized():
        group = group_of_one()
        group.__enter__()
        atexit.register(group.__exit__, None, None, None)
    return CASES
