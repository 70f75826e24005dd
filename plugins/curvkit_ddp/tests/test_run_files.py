"""Run files on several ranks: one plan, rank 0 writes and prints, and the numbers are one process's."""

from __future__ import annotations

import json
import os
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


SHARDED = """
import torch
from curvkit_core import MSELoss, Problem
from curvkit_ddp import shard

def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    data = [(torch.randn(4, 5).double(), torch.randn(4, 2).double()) for _ in range(3)]
    return Problem({model}, data, MSELoss())
"""


def test_sharded_run_gives_the_numbers_of_one_process(ranks, tmp_path):
    """The problem's factory shards its model; checkpoints are on, and rank 0 writes."""
    (tmp_path / "whole_problem.py").write_text(SHARDED.replace("{model}", "model"))
    (tmp_path / "sharded_problem.py").write_text(SHARDED.replace("{model}", "shard(model)"))
    text = f"""
schema = 1
[problem]
kind = "core/python"
factory = "NAME_problem:problem"
path = "{tmp_path}"
[[operator]]
kind = "core/ggn"
[[algorithm]]
kind = "core/eigsh"
k = 2
seed = 0
tol = 1e-8
[[algorithm]]
kind = "core/trace"
seed = 1
num_matvecs = 9
[checkpoint]
products = 1
"""
    for name in ("whole", "sharded"):
        (tmp_path / f"{name}.toml").write_text(text.replace("NAME", name))
    out = str(tmp_path / "out")
    chosen = ["--set", 'backend.kind="ddp/sharded"']
    done = ranks("run_file", 2, tmp_path, str(tmp_path / "sharded.toml"), "", "--out", out, *chosen)
    assert done["codes"] == [0, 0], (tmp_path / "rank-0.log").read_text() + (tmp_path / "rank-1.log").read_text()
    alone = command("curvkit_core", "run", str(tmp_path / "whole.toml"), "--no-plots", "--out", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    assert values(tmp_path / "out") == pytest.approx(values(tmp_path / "one"), rel=1e-12)
    vectors = [load_run(tmp_path / name)[0].result.eigenvectors for name in ("out", "one")]
    assert vectors[0].shape == vectors[1].shape == (2, 50)  # whole, not rank 0's part
    overlap = (vectors[0] * vectors[1]).sum(1).abs()
    assert float((1.0 - overlap).abs().max()) <= 1e-10
