"""Run files on several ranks: one plan, rank 0 writes and prints, and the numbers are one process's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from curvkit_core.runs import load_run

RUN_FILE = """
schema = 1
[problem]
kind = "core/digits-mlp"
epochs = 2
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/fisher"
seed = 4
[[algorithm]]
kind = "core/eigsh"
k = 2
seed = 0
[[algorithm]]
kind = "core/trace"
num_matvecs = 6
"""


SEED = ("--set", "algorithm.1.seed=1")


@pytest.fixture
def run_file(tmp_path) -> Path:
    """Where it lies."""
    path = tmp_path / "digits.toml"
    path.write_text(RUN_FILE)
    return path


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A child with no plugin filter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )


def values(folder: Path) -> list[float]:
    """Eigenvalues and traces, in the run's order."""
    found: list[float] = []
    for row in load_run(folder):
        values = getattr(row.result, "eigenvalues", None)
        found += values.tolist() if values is not None else [row.result.estimate]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[float]:
    """What one process finds, the trace's seed being 1."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "digits.toml").write_text(RUN_FILE)
    out = folder / "out"
    done = command("curvkit_core", "run", str(folder / "digits.toml"), "--no-plots", "--out", str(out), *SEED)
    assert done.returncode == 0, done.stderr
    return values(out)


def test_torchrun_gives_the_numbers_of_one_process(run_file, tmp_path, alone):
    """`torchrun -m curvkit_core run`: one report, one folder, and one seed for the trace that the file leaves open."""
    launcher = ("--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    out = tmp_path / "two"
    run = ("curvkit_core", "run", str(run_file), "--no-plots", "--out", str(out))
    done = command("torch.distributed.run", *launcher, "-m", *run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("eigenvalues (core/eigsh") == 1
    assert done.stderr.count("backend: ddp/replicated") == 1
    plan = json.loads((out / "plan.json").read_text())
    assert plan["problem_facts"]["ranks"] == 2
    assert len(plan["seeds"]) == 1  # two ranks with a seed each would have ended in different products
    # float32 sums in another order: products differ by some 1e-7, eigenvalues by as much; the traces by their seeds
    found = [row.result for row in load_run(out)]
    pairs = [float(v) for result in found if hasattr(result, "eigenvalues") for v in result.eigenvalues]
    assert pairs == pytest.approx([*alone[0:2], *alone[3:5]], rel=1e-5)


def test_run_on_two_ranks_is_taken_up_by_one_process(ranks, run_file, tmp_path, alone):
    """A spent budget leaves a checkpoint; one process takes it up with `--resume`, to the same numbers."""
    out = tmp_path / "out"
    stop = ["--set", "budget.products=14", "--set", "checkpoint.products=1"]
    done = ranks("run_file", 2, tmp_path, str(run_file), "", "--out", str(out), *stop, *SEED)
    assert done["codes"] == [3, 0], (tmp_path / "rank-0.log").read_text() + (tmp_path / "rank-1.log").read_text()
    assert (tmp_path / "rank-1.log").read_text() == ""  # the other rank has nothing to say
    resumed = command("curvkit_core", "run", str(run_file), "--no-plots", "--resume", "--out", str(out), *SEED)
    assert resumed.returncode == 0, resumed.stderr
    assert values(out) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(("different", "named"), [("plugins", "plugins: rank 0 has"), ("settings", "run file: rank 0")])
def test_ranks_that_are_started_differently_are_refused(ranks, run_file, tmp_path, different, named):
    """Another plugin set, another run file: said by every rank before anything is built; exit code 2."""
    done = ranks("run_file", 2, tmp_path, str(run_file), different, "--out", str(tmp_path / "out"))
    assert done["codes"] == [2, 2]
    for rank in range(2):
        text = (tmp_path / f"rank-{rank}.log").read_text()
        assert "the ranks were not started alike" in text and named in text
        assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


FACTORY = """
import os, signal
import torch
from curvkit_core import MSELoss, Problem
from curvkit_ddp import shard

class Deadly(list):
    left = 24
    def __getitem__(self, i):
        Deadly.left -= 1
        if Deadly.left == 0 and os.environ.get("RANK", "") == os.environ.get("KILLED_RANK"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)

def made(sharded):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    data = [(torch.randn(4, 5).double(), torch.randn(4, 2).double()) for _ in range(8)]
    return Problem(shard(model) if sharded else model, Deadly(data), MSELoss())

def whole(): return made(False)
def sharded(): return made(True)
"""

PROBLEM = """
schema = 1
[problem]
kind = "core/python"
factory = "problems_of_run_files:NAME"
path = "PATH"
[[operator]]
kind = "core/ggn"
[[algorithm]]
kind = "core/eigsh"
k = 2
ncv = 8
seed = 0
tol = 1e-9
[[algorithm]]
kind = "core/trace"
seed = 1
num_matvecs = 9
[sweep]
seed = 3
num_probes = 2
steps = 3
[landscape]
directions = 2
points = 5
[checkpoint]
products = 2
"""

CHOSEN = {
    "replicated": ("--set", 'backend.kind="ddp/replicated"'),
    "sharded": ("--set", 'backend.kind="ddp/sharded"'),
}


def written_file(folder: Path, name: str) -> Path:
    """The run file over the problem with whole or sharded parameters."""
    (folder / "problems_of_run_files.py").write_text(FACTORY)
    path = folder / f"{name}.toml"
    path.write_text(PROBLEM.replace("NAME", name).replace("PATH", str(folder)))
    return path


def file_for(folder: Path, kind: str) -> Path:
    """The run file for a backend."""
    return written_file(folder, "sharded" if kind == "sharded" else "whole")


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory) -> Path:
    """The run's folder of one process."""
    folder = tmp_path_factory.mktemp("one")
    done = command(
        "curvkit_core", "run", str(written_file(folder, "whole")), "--no-plots", "--out", str(folder / "out")
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def same_results(one: Path, other: Path, tol: float) -> None:
    """Eigenpairs, trace, sweep and slices, to a relative tolerance."""
    pairs = list(zip(load_run(one), load_run(other), strict=True))
    assert [a.algorithm for a, _ in pairs] == ["core/eigsh", "core/trace", "core/sweep", "core/loss-slice"]
    eigen, trace, sweep, cut = [(a.result, b.result) for a, b in pairs]
    assert eigen[0].eigenvalues.tolist() == pytest.approx(eigen[1].eigenvalues.tolist(), rel=tol)
    assert eigen[0].eigenvectors.shape == eigen[1].eigenvectors.shape == (2, 50)  # whole, not rank 0's part
    overlap = (eigen[0].eigenvectors * eigen[1].eigenvectors).sum(1).abs()
    assert float((1.0 - overlap).abs().max()) <= 1e-10
    assert trace[0].estimate == pytest.approx(trace[1].estimate, rel=tol)
    assert [row.group for row in sweep[0].rows] == [row.group for row in sweep[1].rows] == ["0", "2"]
    assert [row.trace for row in sweep[0].rows] == pytest.approx([row.trace for row in sweep[1].rows], rel=tol)
    assert cut[0].losses.flatten().tolist() == pytest.approx(cut[1].losses.flatten().tolist(), rel=1e-6)


def test_killed_rank_is_named_and_two_shards_go_on(ranks, tmp_path, by_one_process, monkeypatch):
    """kill -9 of rank 2 of 4 in a product of a sharded run: the others name it, and `--resume` on 2 ranks ends it.

    With the sweep and the slices that come after, and whole eigenvectors in the results.
    """
    file, out = str(file_for(tmp_path, "sharded")), tmp_path / "out"
    monkeypatch.setenv("KILLED_RANK", "2")
    done = ranks("run_file", 4, tmp_path, file, "", "--out", str(out), *CHOSEN["sharded"])
    assert done["codes"] == [2, 1, -signal.SIGKILL, 1]
    for rank in (0, 1, 3):
        text = (tmp_path / f"rank-{rank}.log").read_text()
        assert "rank 2 did not answer: killed" in text and "Traceback" not in text, text
    # connections that break are noticed at once, and the roll call takes 3 seconds
    assert max(done["seconds"][r] for r in (0, 1, 3)) - done["seconds"][2] <= 20.0
    assert list(out.glob("checkpoint/job-0-0/driver/checkpoint-*.json"))
    monkeypatch.delenv("KILLED_RANK")
    again = ranks("run_file", 2, tmp_path, file, "", "--resume", "--out", str(out), *CHOSEN["sharded"])
    assert again["codes"] == [0, 0], (tmp_path / "rank-0.log").read_text() + (tmp_path / "rank-1.log").read_text()
    assert "going on with the run in" in (tmp_path / "rank-0.log").read_text()
    same_results(by_one_process, out, 1e-9)


def test_torchrun_ends_a_run_whose_rank_is_killed_and_two_ranks_go_on(ranks, tmp_path, by_one_process, monkeypatch):
    """kill -9 of rank 2 of 4 under torchrun: it stops the others and names the rank; `--resume` on 2 ranks ends it."""
    file, out = str(file_for(tmp_path, "replicated")), tmp_path / "out"
    monkeypatch.setenv("KILLED_RANK", "2")
    launcher = ("--nproc-per-node", "4", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    done = command(
        "torch.distributed.run", *launcher, "-m", "curvkit_core", "run", file, "--no-plots", "--out", str(out)
    )
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr and "local_rank: 2" in done.stderr, done.stderr
    assert list(out.glob("checkpoint/job-0-0/driver/checkpoint-*.json"))
    monkeypatch.delenv("KILLED_RANK")
    again = ranks("run_file", 2, tmp_path, file, "", "--resume", "--out", str(out))
    assert again["codes"] == [0, 0], (tmp_path / "rank-0.log").read_text() + (tmp_path / "rank-1.log").read_text()
    same_results(by_one_process, out, 1e-9)
