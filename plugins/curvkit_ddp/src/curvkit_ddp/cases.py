"""What the conformance checks try the backends on: one process is a group of one, where no launcher has made a larger.

The checks that run in this process hold the backend as rank 0 of 1; those of two ranks start their own processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from curvkit_core.testing import Case
from curvkit_ddp.sharding import shard

__all__ = ["CASES", "group_of_one"]


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


# their probe asks for several ranks, which one process is not: they are tried all the same
CASES = (
    Case(component="ddp/replicated", assume_available=True, within=group_of_one),
    Case(component="ddp/sharded", assume_available=True, within=group_of_one, prepare=shard),
)
