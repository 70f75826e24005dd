"""One rank of several fails in the middle of a run; what the others see, and how long they take to see it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from problems import counted_model
from recorded import Recorded, message_of

from curvkit_core import HessianOperator, MSELoss, Problem, eigsh
from curvkit_ddp import ReplicatedBackend, ShardedBackend, shard


class Failing:
    """Batches that are fine until they are read for the third time."""

    def __init__(self, batches: list[Any], how: str, log: Recorded) -> None:
        self.batches, self.how, self.log = batches, how, log
        self.readings = 0

    def __iter__(self) -> Iterator[Any]:
        self.readings += 1
        if self.readings == 3:
            self.log.facts["failed at"] = time.time()
            if self.how == "raise":
                msg = "no such file: part-7"
                raise OSError(msg)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            if self.how == "hang":
                time.sleep(9.0)
                os._exit(7)
        return iter(self.batches)


def rank(folder: Path, kind: str, how: str, who: str, timeout: str) -> None:
    """Run until it fails; leave behind what was seen and when."""
    torch.set_num_threads(1)
    found = Recorded()
    backend = (ShardedBackend if kind == "sharded" else ReplicatedBackend)(timeout=float(timeout))
    me = backend.world.rank
    model = counted_model()
    if kind == "sharded":
        shard(model, blocks=["layers.0"])
    torch.manual_seed(1 + me)
    batches = [(torch.randn(4, 8).double(), torch.randn(4, 8).double())]
    data = Failing(batches, how, found) if me == int(who) else batches
    problem = Problem(model, data, MSELoss(), backend=backend, preflight="off")
    results: list[Any] = []
    found.facts["seen"] = message_of(lambda: results.append(eigsh(HessianOperator(problem), k=2, seed=0)))
    if results:
        found.facts["stopped"] = [results[0].info.interrupted, results[0].num_matvecs]
    found.facts["seen at"] = time.time()
    found.facts["again"] = message_of(lambda: HessianOperator(problem).apply(problem.space.zeros(1)))
    found.save(folder, me)
    os._exit(3)  # an ordinary end would wait for the others
