"""Program: `curvkit run` over several algorithms and operators, killed at random moments by its parent, and resumed.

    python killed_run_file.py FOLDER KILLS

Runs once to the end; then, `KILLS` times, starts afresh in a folder of its own, is killed (SIGKILL) after a random
share of the time that a whole run takes, every second time once more while it is resumed, and resumed to its end.
Prints a JSON line: how many were killed in the middle, how many jobs those had finished, and how many results were the
whole run's but for times. Children are forked, so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# what a run imports, so that its children spend their time on products
import curvkit_core.algorithms
import curvkit_core.runs.execution
import curvkit_core.runs.record
import curvkit_core.runs.report.page  # noqa: F401
from curvkit_core.cli.main import main as curvkit

RUN_FILE = """\
schema = 1
[problem]
kind = "core/python"
factory = "killed_problem:build"
path = "{path}"
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/ggn"
params = ["0.*"]
[[algorithm]]
kind = "core/eigsh"
k = 2
ncv = 8
tol = 1e-5
[[algorithm]]
kind = "core/trace"
num_matvecs = 48
[[algorithm]]
kind = "core/spectral-density"
num_probes = 2
steps = 8
[sweep]
by = "layer"
num_probes = 2
steps = 4
[landscape]
points = 5
[checkpoint]
products = 3
"""
PROBLEM = """\
import torch
from curvkit_core import CrossEntropyLoss, Problem


def build():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Tanh(), torch.nn.Linear(24, 5))
    labels = torch.arange(64) % 5
    data = [(torch.randn(64, 16, generator=generator), labels) for _ in range(2)]
    return Problem(model, data, CrossEntropyLoss())
"""


def forked(*arguments: str, seconds: float | None = None) -> int | None:
    """Run the command line in a child, killed after `seconds`; its exit code, or None where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Path("said.txt").open("w", buffering=1) as said, contextlib.redirect_stdout(said):
                sys.stderr = said
                code = curvkit(["--no-plugins", "run", "killed.toml", "--no-plots", *arguments])
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def timeless(value: Any) -> Any:
    """The same with no wall times in it."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def found_in(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    return timeless(json.loads((folder / "result.json").read_text())), load_file(folder / "result.safetensors")


def main() -> None:
    base, kills = Path(sys.argv[1]), int(sys.argv[2])
    os.chdir(base)
    sys.dont_write_bytecode = True
    Path("killed.toml").write_text(RUN_FILE.format(path=base))
    Path("killed_problem.py").write_text(PROBLEM)
    torch.set_num_threads(1)
    seeds = [*(f"--set=algorithm.{i}.seed={i}" for i in range(3)), "--set=sweep.seed=3"]
    assert forked("--out", "warm", *seeds) == 0
    begun = time.perf_counter()
    assert forked("--out", "whole", *seeds) == 0
    length = time.perf_counter() - begun
    document, tensors = found_in(base / "whole")
    moments = random.Random(0)
    equal, middle, jobs, left_over = 0, 0, [], []
    for number in range(kills):
        folder, out = base / f"killed-{number}", f"--out=killed-{number}"
        code = forked(out, *seeds, seconds=moments.uniform(0.3, 0.95) * length)
        if code is None and (folder / "checkpoint").is_dir():
            assert not (folder / "result.json").exists(), "an unfinished run looks like a finished one"
            middle += 1
            jobs.append(len(list(folder.glob("checkpoint/job-*/done"))))
        if number % 2:
            forked(out, "--resume", *seeds, seconds=moments.uniform(0.1, 0.6) * length)
        assert forked(out, "--resume", *seeds) == 0, Path("said.txt").read_text()
        again, found = found_in(folder)
        same = again == document and found.keys() == tensors.keys()
        equal += same and all(torch.equal(found[name], tensors[name]) for name in tensors)
        left_over += [p.name for p in folder.iterdir() if p.name == "checkpoint"]
    hidden = [p.name for p in base.iterdir() if p.name.startswith(".killed")]
    print(json.dumps({"kills": kills, "equal": equal, "middle": middle, "jobs": jobs, "left_over": left_over + hidden}))


if __name__ == "__main__":
    main()
