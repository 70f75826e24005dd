"""Program: a run that saves after every product, killed at random moments by its parent, and taken up again.

    python killed_run.py FOLDER KILLS

Runs once to the end; then, `KILLS` times, starts afresh in a folder of its own, is killed (SIGKILL) at a random moment
after a random number of products, and goes on from what it left. Moments are counted from the checkpoint of that
number, not from the start: on a busy machine one run may take three times as long as another. Prints a JSON line: how
many were killed in the middle of their work, how many products those had saved, and how many of the results were bit
for bit the whole run's.
Children are forked, so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from curvkit_core import CrossEntropyLoss, HessianOperator, Problem
from curvkit_core.algorithms import Eigsh, run


def work(folder: Path) -> None:
    """One run to its end; its result is written beside the checkpoints, whole or not at all."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Tanh(), torch.nn.Linear(24, 5))
    data = [(torch.randn(64, 16), torch.randint(5, (64,))) for _ in range(2)]
    op = HessianOperator(Problem(model, data, CrossEntropyLoss(), preflight="off"), cache="rebuild")
    result = run(Eigsh(k=4, ncv=12, tol=1e-6, seed=0), op, checkpoint=folder, checkpoint_every=1)
    facts = {"values": result.eigenvalues, "vectors": result.eigenvectors, "residuals": result.residuals}
    torch.save(facts, folder / "result.tmp")
    (folder / "result.tmp").rename(folder / "result.pt")


def forked(folder: Path, after: int | None = None, seconds: float = 0.0) -> bool:
    """Run `work` in a child, killed `seconds` after its checkpoint number `after`; whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            work(folder)
        finally:
            os._exit(0 if (folder / "result.pt").exists() else 1)
    if after is not None:
        while after and not (folder / f"checkpoint-{after:06d}.json").exists():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            time.sleep(0.0005)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in folder.glob("checkpoint-*.json")]


def main() -> None:
    base, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    forked(base / "warm")
    begun = time.perf_counter()
    assert forked(base / "whole")
    length = time.perf_counter() - begun
    expected = torch.load(base / "whole" / "result.pt", weights_only=True)
    products = max(_numbers(base / "whole"))
    moments = random.Random(0)
    equal, middle, saved = 0, 0, []
    for number in range(kills):
        folder = base / f"killed-{number}"
        if not forked(folder, moments.randrange(products), moments.uniform(0.0, 2.0) * length / products):
            numbers = _numbers(folder)
            middle += bool(numbers)
            saved.append(max(numbers, default=0))
        assert forked(folder)
        found = torch.load(folder / "result.pt", weights_only=True)
        equal += all(torch.equal(found[key], expected[key]) for key in expected)
    print(json.dumps({"kills": kills, "equal": equal, "middle": middle, "saved": saved}))


if __name__ == "__main__":
    main()
