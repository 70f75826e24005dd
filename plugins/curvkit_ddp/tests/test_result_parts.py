"""Results of sharded runs: written in parts, read by any number of ranks or by one process, and whole on no rank."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from curvkit_core import GGNOperator
from curvkit_core.cli.main import main
from curvkit_core.runs import load_run
from curvkit_core.runs.destination import folder_kind

EPS = torch.finfo(torch.float64).eps
FACTORY = """
import torch
from curvkit_core import MSELoss, Problem
from curvkit_ddp import shard

def made(sharded):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    data = [(torch.randn(4, 5).double(), torch.randn(4, 2).double()) for _ in range(3)]
    return Problem(shard(model) if sharded else model, data, MSELoss())

def whole(): return made(False)
def sharded(): return made(True)
"""
RUN_FILE = """
schema = 1
[problem]
kind = "core/python"
factory = "problem_of_parts:NAME"
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
kind = "core/lanczos-tridiagonal"
steps = 4
seed = 2
[[algorithm]]
kind = "core/trace"
seed = 1
num_matvecs = 3
method = "hutchinson"
[landscape]
directions = 2
points = 5
[checkpoint]
products = 1000000
"""
N = 26  # on four ranks 9 + 9 + 8 + 0, and on two 18 + 8: rows of 3 and 2 entries are dealt out


def run_file(folder: Path, name: str) -> str:
    """The run file over the problem with whole or sharded parameters."""
    (folder / "problem_of_parts.py").write_text(FACTORY)
    text = RUN_FILE.replace("NAME", name).replace("PATH", str(folder))
    if name == "sharded":
        text += '[backend]\nkind = "ddp/sharded"\ntimeout = 60.0\n'
    (folder / f"{name}.toml").write_text(text)
    return str(folder / f"{name}.toml")


def launched(ranks, size: int, folder: Path, *arguments: str, codes: list[int] | None = None) -> list[str]:
    """Start the program, and give what each rank has said."""
    done = ranks("result_parts", size, folder, *arguments)
    logs = [(folder / f"rank-{r}.log").read_text() for r in range(size)]
    assert done["codes"] == (codes or [0] * size), "\n".join(logs)
    return logs


def facts_of(folder: Path, size: int, name: str) -> list[Any]:
    """What each rank recorded."""
    from recorded import Recorded

    return [Recorded.load(folder, rank).facts[name] for rank in range(size)]


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory) -> Path:
    """What four ranks have written: ``out`` by a run file, ``api`` in Python."""
    folder = tmp_path_factory.mktemp("written")
    launched(ranks, 4, folder, "run", run_file(folder, "sharded"), "--out", str(folder / "out"))
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> ModuleType:
    """The problem's module, for this process."""
    made = ModuleType("problem_of_parts")
    exec(FACTORY, made.__dict__)
    return made


@pytest.fixture(scope="module")
def dense(module: ModuleType) -> Tensor:
    """The GGN, by products of one process."""
    return GGNOperator(module.whole()).to_dense()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run's folder of one process."""
    folder = tmp_path_factory.mktemp("alone")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, "-m", "curvkit_core", "run", run_file(folder, "whole"), "--no-plots", "--out"]
    done = subprocess.run(
        [*command, str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_no_rank_has_a_whole_vector(written):
    """None is gathered, sent or put together in the run, its slices included, nor where a space reads; else counted."""
    assert facts_of(written, 4, "whole in the run") == [0] * 4
    assert facts_of(written, 4, "whole in reading") == [0] * 4
    # control: the ranks gathered what they had in their hands, and rank 0 has it whole
    assert facts_of(written, 4, "gathered control")[0] == [2, N]
    local = facts_of(written, 4, "n_local")
    assert sum(local) == N and len(set(local)) > 1 and min(local) == 0


def test_folder_has_vectors_in_parts_alone(written):
    """A file of each rank that holds something, and no number of vectors in result.safetensors."""
    out = written / "out"
    assert json.loads((out / "result.json").read_text())["schema"] == 2
    for name in ("rows-0-0", "rows-0-1"):
        assert sorted(p.name for p in (out / name).iterdir()) == [f"part-{r:05d}.safetensors" for r in range(3)]
    assert max(sizes(out)) <= 5 * 5 < 2 * N  # of the numbers that are no vectors the slices' losses are the most
    assert folder_kind(out) == "finished"
    assert not list(written.rglob("*.tmp*"))


def sizes(folder: Path) -> list[int]:
    """Numbers in each tensor of result.safetensors."""
    with safe_open(folder / "result.safetensors", framework="pt") as file:
        return [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118 - no mapping


def test_control_one_process_has_vectors_in_the_table(alone):
    """Where nothing lies in parts they are found there."""
    assert max(sizes(alone)) >= 2 * N


def same_as_alone(out: Path, alone: Path, dense: Tensor) -> None:
    """Eigenvectors to their residuals over the gaps, Lanczos by its recurrence, traces and slices to rounding."""
    found, other = load_run(out), load_run(alone)
    assert [r.algorithm for r in found] == [r.algorithm for r in other]
    assert [r.parts for r in found] == [None] * 4
    spectrum = torch.linalg.eigvalsh(dense)
    for i in range(2):
        (theta, q, r), (_, p, s) = [
            (x.result.eigenvalues[i], x.result.eigenvectors[i], x.result.residuals[i]) for x in (found[0], other[0])
        ]
        gap = (spectrum - theta).abs().sort().values[1]
        # sin of the angle to the eigenvector is at most residual/gap (Davis, Kahan), and |q -+ p| sqrt(2) sin at most
        tol = float(2.0**0.5 * (r + s) / gap) + 10 * N * EPS
        assert tol < 1e-4  # ten times below what the control changes
        assert min(float((q - p).norm()), float((q + p).norm())) <= tol
        moved = q.roll(1)
        assert min(float((moved - p).norm()), float((moved + p).norm())) > 1e-3
    f = found[1].result
    T = torch.diag(f.alpha) + torch.diag(f.beta, 1) + torch.diag(f.beta, -1)
    tol = 10 * N * EPS * float(dense.norm())  # N-term dot products

    def gap_of(basis: Tensor) -> float:
        return float((basis @ dense - T @ basis - torch.eye(4, dtype=T.dtype)[:, 3:] * f.residual).norm())

    assert gap_of(f.basis) <= tol
    assert gap_of(f.basis.roll(1, dims=1)) > tol  # parts put together in the wrong place
    assert found[2].result.estimate == pytest.approx(other[2].result.estimate, rel=1e-10)
    assert found[3].result.losses.flatten().tolist() == pytest.approx(
        other[3].result.losses.flatten().tolist(), rel=1e-6
    )


def test_one_process_reads_them_whole(written, alone, dense):
    """`load_run` with no process group."""
    same_as_alone(written / "out", alone, dense)


def bit_equal(folder: Path, size: int) -> None:
    """What each rank read is its part of what it held, and of what one process reads."""
    for name in ("eigenvectors", "basis", "residual", "bases.0", "bases.1"):
        assert facts_of(folder, size, name) == [True] * size, name
    for name in ("eigenvectors", "basis", "residual"):
        assert facts_of(folder, size, f"{name} control") == [False] * size, name
    assert facts_of(folder, size, "in step") == [7] * size


def test_four_ranks_read_what_they_held(written):
    """Bit for bit, by `load_run` and `load_result` with a space; vectors in tuples within results too."""
    bit_equal(written, 4)
    named = ["results.0.eigenvectors", "results.1.bases.0", "results.1.bases.1"]
    assert facts_of(written, 4, "named") == [named] * 4


def test_save_that_fails_is_told_to_all(written):
    """A folder that is taken, a full disk of rank 1, a folder that one rank does not see: nothing is left over."""
    taken = facts_of(written, 4, "taken")
    assert taken[0].startswith("FileExistsError: ") and taken[0].endswith("nothing was written. Choose another name.")
    full = facts_of(written, 4, "full")
    assert full[1] == "OSError: [Errno 28] No space left on device"
    for rank in (1, 2, 3):
        assert taken[rank].startswith("RankError: the rank that writes could not save the result in ")
    for rank in (0, 2, 3):
        assert "failed on rank 1: OSError: [Errno 28] No space left on device" in full[rank]
    assert facts_of(written, 4, "left over") == [[]] * 4
    other = facts_of(written, 4, "one rank sees another folder")
    assert other[1].startswith("FileNotFoundError: ")
    assert {text.partition(" in ")[0] for text in (other[0], *other[2:])} == {"RankError: a rank cannot read the files"}


def test_two_ranks_read_what_four_have_written(ranks, written, tmp_path):
    """Bit for bit; a part that is cut short, or missing, is named by both. Replicas have all of it, and one writes."""
    folder = tmp_path / "there"
    shutil.copytree(written, folder)
    for name in ("cut", "missing"):
        shutil.copytree(folder / "out", folder / name)
        path = folder / name / "rows-0-0" / "part-00001.safetensors"
        content = path.read_bytes()
        path.unlink()
        if name == "cut":
            path.write_bytes(content[:-8])
        with pytest.raises(ValueError, match=r"rows-0-0: part-00001.safetensors: "):
            load_run(folder / name)
    launched(ranks, 2, folder, "read", str(folder / "sharded.toml"), "--out", str(folder / "out"))
    bit_equal(folder, 2)
    assert facts_of(folder, 2, "replica reads parts") == facts_of(folder, 2, "replica reads whole") == [True] * 2
    assert facts_of(folder, 2, "replicated") == [["result.json", "result.safetensors"]] * 2
    texts = facts_of(folder, 2, "taken by rank 0")
    assert [text.partition(":")[0] for text in texts] == ["FileExistsError", "RankError"]
    for name in ("cut", "missing"):
        for text in facts_of(folder, 2, name):
            assert text.startswith(f"DamagedPartError: {folder / name / 'rows-0-0'}: part-00001.safetensors: "), text


def test_commands_read_the_folder(written, alone, tmp_path, capsys):
    """`curvkit show`, `compare` and `plot`, in one process."""
    assert main(["show", str(written / "out")]) == 0
    assert "eigenvalues (core/eigsh" in capsys.readouterr().out
    assert main(["compare", str(alone), str(written / "out")]) == 0
    shown = capsys.readouterr().out
    overlap = next(line for line in shown.splitlines() if line.split()[-3:-2] == ["2"] and "core/ggn" in line)
    assert overlap.split()[-2:] == ["1.000", "0.077"]
    pytest.importorskip("matplotlib")
    assert main(["plot", str(written / "out"), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "report.html").is_file()


def test_kill_in_the_middle_of_a_job_s_vectors(ranks, tmp_path, alone, dense):
    """kill -9 of rank 1 of 3: the others name it; two ranks keep the first job, and do the second again."""
    file, out = run_file(tmp_path, "sharded"), tmp_path / "out"
    logs = launched(ranks, 3, tmp_path, "dying", file, "--out", str(out), codes=[2, -signal.SIGKILL, 1])
    for log in (logs[0], logs[2]):
        assert "rank 1 did not answer: killed" in log and "Traceback" not in log
    assert "1 of 3 jobs are finished and kept" in logs[0]
    assert not (out / "checkpoint/job-0-1/done").exists()
    logs = launched(ranks, 2, tmp_path, "resumed", file, "--out", str(out), "--resume")
    assert logs[0].count("finished before") == 1
    same_as_alone(out, alone, dense)


def test_kill_before_the_folder_is_written(ranks, tmp_path, alone, dense):
    """kill -9 of rank 0 of 3 when all jobs are kept: two ranks make the folder of these, and no product of a job."""
    file, out = run_file(tmp_path, "sharded"), tmp_path / "out"
    logs = launched(ranks, 3, tmp_path, "killed", file, "--out", str(out), codes=[-signal.SIGKILL, 0, 0])
    assert "[3/3] core/trace" in logs[0]
    assert folder_kind(out) == "unfinished" and not (out / "result.json").exists()
    done = out / "checkpoint/job-0-0/done/rows-0-0"
    parts = {p.name: p.read_bytes() for p in done.iterdir()}
    logs = launched(ranks, 2, tmp_path, "resumed", file, "--out", str(out), "--resume")
    assert logs[0].count("finished before") == 3
    assert {p.name: p.read_bytes() for p in (out / "rows-0-0").iterdir()} == parts
    assert not (out / "checkpoint").exists()
    assert facts_of(tmp_path, 2, "whole in the run") == [0, 0]
    same_as_alone(out, alone, dense)


@pytest.mark.skipif(sys.platform == "win32", reason="files are limited by POSIX's RLIMIT_FSIZE")
def test_rank_whose_files_cannot_grow_costs_no_number(ranks, tmp_path, monkeypatch):
    """A real limit of 64 bytes a file on rank 1 of 2: rank 0 prints the report and what is lost, keeps the rest."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    out = tmp_path / "out"
    logs = launched(ranks, 2, tmp_path, "full", run_file(tmp_path, "sharded"), "--out", str(out), codes=[1, 0])
    assert "eigenvalues (core/eigsh" in logs[0] and "trace (core/trace" in logs[0]
    for where in ("the run's folder", "the temporary directory"):
        said = f"core/eigsh on core/ggn: its vectors (eigenvectors) cannot be written into {where}: rank 0 stopped, "
        assert said in logs[0]
    assert "failed on rank 1: OSError: " in logs[0] and "File too large" in logs[0]
    assert "no place took the elements of eigenvectors when it ended" in logs[0]
    assert "Traceback" not in logs[0] + logs[1]
    assert logs[1] == ""
    assert list((tmp_path / "tmp").glob("curvkit*")) == []
    assert [p.name for p in out.iterdir()] == ["checkpoint"]
    assert (out / "checkpoint/job-0-2/done").is_dir()
