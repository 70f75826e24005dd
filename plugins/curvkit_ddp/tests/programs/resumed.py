"""An eigensolve that saves after every product; one rank is killed in it, or it goes on from what was saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problems import counted_model
from recorded import Recorded

from curvkit_core import HessianOperator, MSELoss, Problem, eigsh
from curvkit_ddp import ReplicatedBackend, ShardedBackend, shard


def data() -> list[Any]:
    """Six batches, the same in every process."""
    torch.manual_seed(1)
    return [(torch.randn(3, 8).double(), torch.randn(3, 8).double()) for _ in range(6)]


class Killing:
    """Batches that end their process when they are read for the `last`-th time."""

    def __init__(self, batches: Any, last: int) -> None:
        self.batches, self.last = batches, last

    def __iter__(self) -> Iterator[Any]:
        self.last -= 1
        if self.last == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return iter(self.batches)


def solved(problem: Problem, checkpoint: Path | None) -> Any:
    """Two eigenpairs; some 20 products."""
    H = HessianOperator(problem, cache="rebuild")
    return eigsh(H, k=2, ncv=8, tol=1e-9, seed=0, max_rows=1, checkpoint=checkpoint, checkpoint_every=1)


def rank(folder: Path, kind: str, checkpoint: str, killed: str) -> None:
    """Run; where `killed` is this rank's number, until the eighth reading of the data."""
    torch.set_num_threads(1)
    backend = (ShardedBackend if kind == "sharded" else ReplicatedBackend)(timeout=30.0)
    me = backend.world.rank
    model = counted_model()
    if kind == "sharded":
        shard(model, blocks=[])
    own = backend.shard(data())
    problem = Problem(model, Killing(own, 8) if me == int(killed) else own, MSELoss(), backend=backend, preflight="off")
    eig = solved(problem, Path(checkpoint))
    facts = {"matvecs": eig.num_matvecs, "findings": list(eig.info.findings), "converged": eig.converged.tolist()}
    Recorded({"values": eig.eigenvalues}, facts).save(folder, me)
    dist.destroy_process_group()
