"""An eigensolve that saves after every product; one rank is killed in it, or it goes on from what was saved.

Options: ``saving`` kills within a save; ``changed`` tries with another model first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problems import counted_model
from recorded import Recorded, message_of

from curvkit_core import HessianOperator, MSELoss, Problem, eigsh
from curvkit_ddp import ReplicatedBackend, ShardedBackend, row_storage, shard
from curvkit_ddp.sharded_space import ShardedSpace


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


def dying_in_a_save(number: int) -> None:
    """End this process in its `number`-th file of vectors, half of it written."""
    original, left = row_storage.write_part, [number]

    def write(path: Path, *rest: Any) -> dict[str, Any]:
        left[0] -= 1
        facts = original(path, *rest)
        if left[0] == 0:
            path.write_bytes(path.read_bytes()[: facts["bytes"] // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return facts

    row_storage.write_part = write


def counting_whole_rows() -> list[int]:
    """How many vectors are gathered from now on."""
    original, seen = ShardedSpace.whole_rows, [0]

    def whole_rows(self: ShardedSpace, rows: torch.Tensor) -> torch.Tensor:
        seen[0] += 1
        return original(self, rows)

    ShardedSpace.whole_rows = whole_rows
    return seen


def problem_of(kind: str, own: Any, backend: ReplicatedBackend | ShardedBackend, off: float = 0.0) -> Problem:
    """The problem on this rank's data, one weight being `off`."""
    model = counted_model()
    with torch.no_grad():
        model.layers[3].weight[5, 5] += off
    if kind == "sharded":
        shard(model, blocks=[])
    return Problem(model, own, MSELoss(), backend=backend, preflight="off")


def rank(folder: Path, kind: str, checkpoint: str, killed: str, *options: str) -> None:
    """Run; where `killed` is this rank's number, until the eighth reading of the data or the eighth file of vectors."""
    torch.set_num_threads(1)
    backend = (ShardedBackend if kind == "sharded" else ReplicatedBackend)(timeout=30.0)
    me = backend.world.rank
    own = backend.shard(data())
    if me == int(killed) and "saving" in options:
        dying_in_a_save(8)
    elif me == int(killed):
        own = Killing(own, 8)
    found = Recorded()
    if "changed" in options:
        found.facts["refused"] = message_of(lambda: solved(problem_of(kind, own, backend, off=1e-9), Path(checkpoint)))
    gathered = counting_whole_rows()
    eig = solved(problem_of(kind, own, backend), Path(checkpoint))
    found.tensors["values"] = eig.eigenvalues
    found.facts |= {"matvecs": eig.num_matvecs, "findings": list(eig.info.findings)}
    found.facts |= {"converged": eig.converged.tolist(), "gathered": gathered[0]}
    found.save(folder, me)
    dist.destroy_process_group()
