"""`curvkit run`: the main job on real data against a dense oracle, and what bad input gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from curvkit_core.cli.main import main
from curvkit_core.host.registry import configure_default
from curvkit_core.results.store import write_stored
from curvkit_core.runs import load_run

ROOT = Path(__file__).parents[2]
SMALL = """\
schema = 1
[problem]
kind = "core/digits-mlp"
hidden = [2]
epochs = 2
examples = 40
dtype = "float64"
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/ggn"
[[algorithm]]
kind = "core/eigsh"
k = 3
tol = 1e-9
seed = 0
[[algorithm]]
kind = "core/trace"
num_matvecs = 150
seed = 0
[[algorithm]]
kind = "core/spectral-density"
num_probes = 4
steps = 20
seed = 0
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory with one run file, and afterwards the default registry as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    yield tmp_path
    configure_default()


def run(*arguments: str) -> int:
    return main(["--no-plugins", "run", *arguments])


def dense(kind: str) -> torch.Tensor:
    """The Hessian or GGN of the mean cross-entropy by torch.func on one vector of parameters, all data at once."""
    pytest.importorskip("sklearn")
    from curvkit_core.problem.digits_config import DigitsMLPConfig
    from curvkit_core.problem.digits_mlp import build

    table = tomllib.loads(SMALL)["problem"]
    problem = build(DigitsMLPConfig(hidden=(2,), **{k: table[k] for k in ("epochs", "examples", "dtype")}))
    images, labels = (torch.cat([batch[i] for batch in problem.batches]) for i in (0, 1))
    names = [name for name, _ in problem.model.named_parameters()]
    shapes = [p.shape for p in problem.model.parameters()]
    theta = torch.cat([p.detach().flatten() for p in problem.model.parameters()])

    def logits(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        parts = {n: part.reshape(shape) for n, part, shape in zip(names, pieces, shapes, strict=True)}
        return torch.func.functional_call(problem.model, parts, (images,))

    if kind == "hessian":
        return torch.func.hessian(lambda v: torch.nn.functional.cross_entropy(logits(v), labels))(theta)
    jacobian = torch.func.jacrev(logits)(theta)
    p = logits(theta).softmax(-1)
    core = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nci,ncd,ndj->ij", jacobian, core, jacobian) / len(images)


def test_run_agrees_with_dense_eigendecomposition(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eigenvalues to 1e-6 relative, trace within 4 standard errors of small size, mass 1; table, files and figures."""
    pytest.importorskip("sklearn")
    assert run("small.toml", "--out", "out") == 0
    shown = capsys.readouterr()
    results = {(r.operator.removeprefix("core/"), r.algorithm.removeprefix("core/")): r.result for r in load_run("out")}
    for kind in ("hessian", "ggn"):
        truth = torch.linalg.eigvalsh(dense(kind))
        top = truth.flip(0)[:3]
        eigen, trace, density = (results[kind, name] for name in ("eigsh", "trace", "spectral-density"))
        assert torch.allclose(eigen.eigenvalues, top, rtol=1e-6, atol=0)
        assert not torch.allclose(1.001 * eigen.eigenvalues, top, rtol=1e-6, atol=0)
        assert bool(eigen.converged.all())
        assert abs(trace.estimate - float(truth.sum())) <= 4 * trace.stderr
        assert trace.stderr <= 0.1 * float(truth.sum())
        mass = torch.trapezoid(density.density, density.grid)
        assert float(mass) == pytest.approx(1.0, abs=1e-3)
        assert f"{float(top[0]):.5f}" in shown.out
    for part in ("problem core/digits-mlp", "eigenvalues (core/eigsh", "trace (core/trace", "+-", "written to out"):
        assert part in shown.out
    assert "curvkit: [6/6] core/spectral-density on core/ggn" in shown.err
    assert shown.out.isascii()
    plan = json.loads((here / "out" / "plan.json").read_text())
    assert plan["problem_facts"]["n"] == len(truth)
    assert (here / "out" / "log.jsonl").exists()


def test_second_run_takes_the_next_number_and_plots_can_be_left_out(here: Path) -> None:
    """runs/small-1, runs/small-2; --no-plots draws nothing; the figures are there otherwise."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    one = ["--set", 'operator=[{kind="core/ggn"}]', "--set", 'algorithm=[{kind="core/eigsh", k=1, max_matvecs=3}]']
    assert run("small.toml", *one) == 0
    assert run("small.toml", *one, "--no-plots") == 0
    drawn = [sorted(p.name for p in (here / "runs" / f"small-{i}").glob("*.[ps][nv]g")) for i in (1, 2)]
    assert drawn == [["eigsh-ggn.png", "eigsh-ggn.svg"], []]
    (result,) = load_run("runs/small-1")
    assert result.result.num_matvecs == 3


def test_example_is_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    """examples/digits.toml has both operators, k = 10, trace and density, and passes the check."""
    pytest.importorskip("sklearn")
    data = tomllib.loads((ROOT / "examples" / "digits.toml").read_text())
    assert [o["kind"] for o in data["operator"]] == ["core/hessian", "core/ggn"]
    assert [a["kind"] for a in data["algorithm"]] == ["core/eigsh", "core/trace", "core/spectral-density"]
    assert data["algorithm"][0]["k"] == 10
    assert main(["--no-plugins", "config", "check", str(ROOT / "examples" / "digits.toml")]) == 0
    assert ": ok, 6 runs" in capsys.readouterr().out


def python(factory: str) -> list[str]:
    """Settings that make the problem one of the user's own."""
    return ["--set", f'problem={{kind="core/python", factory="{factory}"}}']


BAD: dict[str, tuple[bytes | str, list[str], str]] = {
    "unknown key": (SMALL + "\nkk = 1\n", [], "$.algorithm[2]  unknown key 'kk'; known: "),
    "wrong type": (SMALL, ["--set", "algorithm.0.k=5.9"], "$.algorithm[0].k  expected int, got float 5.9"),
    "unknown kind": (SMALL.replace("core/ggn", "core/gnn"), [], "$.operator[1].kind  operator 'core/gnn' is unknown"),
    "missing section": ("schema = 1\n", [], "$.algorithm  missing: expected [[algorithm]] with kind"),
    "not TOML": ("schema = = 1\n", [], "bad.toml: is not TOML: "),
    "not UTF-8": (b"schema = 1 # \xe9\n", [], "bad.toml: is not UTF-8: byte 0xe9 in line 1"),
    "empty": ("", [], "bad.toml: is empty"),
    "k = 0": (SMALL, ["--set", "algorithm.0.k=0"], "$.algorithm[0].k  'k' must be >= 1: 0"),
    "k > n": (SMALL, ["--set", "algorithm.0.k=9999"], "$.algorithm[0].k  on core/hessian: k=9999 is out of range"),
    "glob": (SMALL, ["--set", 'operator.1.params=["typo.*"]'], "$.operator[1].params[0]  params="),
    "no module": (SMALL, python("no_such_module_x:f"), "$.problem.factory  "),
    "no function": (SMALL, python("json:f"), "has no 'f'"),
    "no factory": (SMALL, ["--set", 'problem={kind="core/python"}'], "$.problem.factory  missing: expected str"),
    "malformed factory": (SMALL, python("x"), "$.problem.factory  "),
    "raising factory": (SMALL, python("own:fail"), "own.py, line 2, in fail)"),
    "factory of no problem": (SMALL, python("os:getcwd"), "returned a str"),
    "bad --set": (SMALL, ["--set", "algorithm.0.which=LA"], "'LA' is not a TOML value"),
    "bad --out": (SMALL, ["--out", "bad.toml"], "--out: 'bad.toml' exists and is no folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Exit code 2, the path and the mend, no traceback, no file."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    content, arguments, text = BAD[name]
    (here / "bad.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    (here / "own.py").write_text("def fail():\n    raise RuntimeError('boom')\n")
    before = sorted(here.rglob("*"))
    assert run("bad.toml", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert "Traceback" not in shown.err
    assert sorted(here.rglob("*")) == before


def test_directory_and_missing_file_are_one_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is a traceback; both name what is near."""
    assert run(".") == 2
    assert "is a directory, expected a TOML file such as 'small.toml'" in capsys.readouterr().err
    assert run("smal.toml") == 2
    assert "no such file; did you mean 'small.toml'?" in capsys.readouterr().err
    assert [p.name for p in here.iterdir()] == ["small.toml"]


def test_existing_run_is_refused_before_anything_is_built(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The refusal comes at once, and the run that is there stays."""
    (here / "out").mkdir()
    (here / "out" / "plan.json").write_text('{"schema": 1}')
    assert run("small.toml", "--out", "out") == 2
    shown = capsys.readouterr()
    assert "--out: 'out' holds a run already: choose another name, or give --force" in shown.err
    assert "building" not in shown.err
    assert [p.name for p in (here / "out").iterdir()] == ["plan.json"]


@pytest.mark.parametrize("kept", [True, False])
def test_results_that_cannot_be_written_are_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    """A full disk at the end of a long run: exit code 1, the report all the same, no traceback.

    Where the finished job could still be kept, --resume writes it without a product; where it could not, the run says
    so and leaves no folder behind, neither here nor in the temporary directory, which is tried and is full as well.
    """
    pytest.importorskip("sklearn")
    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    writes: list[Path] = []

    def full(document: Any, tensors: Any, folder: Path) -> None:
        writes.append(folder)
        if kept and len(writes) == 1:
            return write_stored(document, tensors, folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("curvkit_core.results.store.write_stored", full)
    one = ["--set", 'operator=[{kind="core/ggn"}]', "--set", 'algorithm=[{kind="core/eigsh", k=1, max_matvecs=3}]']
    assert run("small.toml", *one, "--out", "deep/out") == 1
    shown = capsys.readouterr()
    assert len(writes) == (2 if kept else 3)
    assert list((here / "tmp").iterdir()) == []
    assert "eigenvalues (core/eigsh" in shown.out
    assert "curvkit: error: the run's files could not be written: [Errno 28] No space left on device" in shown.err
    monkeypatch.undo()
    if not kept:
        assert "its result cannot be kept for a resumption: [Errno 28]" in shown.err
        assert not (here / "deep").exists()
        return
    assert [p.name for p in (here / "deep" / "out").iterdir()] == ["checkpoint"]
    monkeypatch.chdir(here)
    assert run("small.toml", *one, "--out", "deep/out", "--resume") == 0
    assert "finished before" in capsys.readouterr().err
    assert not (here / "deep" / "out" / "checkpoint").exists()
    assert load_run("deep/out")[0].result.num_matvecs == 3


def test_results_that_their_folder_cannot_take_are_written_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One disk is full and the other is not: the run lies in the temporary directory, whole, and for the user alone."""
    pytest.importorskip("sklearn")
    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))

    def full(document: Any, tensors: Any, folder: Path) -> None:
        if "deep" in folder.parts:
            raise OSError(28, "No space left on device")
        write_stored(document, tensors, folder)

    monkeypatch.setattr("curvkit_core.results.store.write_stored", full)
    one = ["--set", 'operator=[{kind="core/ggn"}]', "--set", 'algorithm=[{kind="core/eigsh", k=2, seed=0}]']
    assert run("small.toml", *one, "--out", "deep/out") == 1
    (place,) = (here / "tmp").glob("curvkit-*/out")
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"curvkit: the run's files are in {place} instead: move them to a place that lasts"
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert not (here / "deep").exists()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run("small.toml", *one, "--out", "again") == 0
    (saved,), (again,) = load_run(place), load_run("again")
    assert torch.equal(saved.result.eigenvectors, again.result.eigenvectors)


@pytest.mark.skipif(sys.platform == "win32", reason="files are limited by POSIX's RLIMIT_FSIZE")
def test_files_that_cannot_grow_cost_no_number(here: Path) -> None:
    """A real limit, of 20 kB a file, on all disks: exit code 1, the report printed, no traceback, nothing left over."""
    pytest.importorskip("sklearn")
    (here / "tmp").mkdir()
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    code = limited + "import sys; from curvkit_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
    one = ["--set", 'operator=[{kind="core/ggn"}]', "--set", 'algorithm=[{kind="core/eigsh", k=4}]']
    command = [sys.executable, "-c", code, "--no-plugins", "run", "small.toml", "--set", "problem.hidden=[16]", *one]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(here / "tmp")}
    done = subprocess.run(
        [*command, "--out", "out"], capture_output=True, text=True, cwd=here, env=environment, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "eigenvalues (core/eigsh" in done.stdout
    assert "curvkit: error: the run's files could not be written: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "out").exists()
    assert list((here / "tmp").iterdir()) == []


def test_ctrl_c_ends_with_what_was_found(here: Path) -> None:
    """SIGINT in the second job of a real process: exit code 130, the first job's result on disk, no traceback."""
    pytest.importorskip("sklearn")
    arguments = ["--set", "algorithm.1.num_matvecs=1000000", "--set", 'algorithm.1.method="hutchinson"', "--out", "out"]
    command = [sys.executable, "-m", "curvkit_core", "--no-plugins", "run", "small.toml", "--no-plots", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=here, env=environment
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            said.append(line)
            if line.startswith("curvkit: [1/6]"):
                child.send_signal(signal.SIGINT)
    assert child.returncode == 130, said
    assert "interrupted: what was found so far is kept" in said[-1]
    assert "Traceback" not in "".join(said)
    document: dict[str, Any] = json.loads((here / "out" / "result.json").read_text())
    assert document["interrupted"] is True
    assert document["runs"][0]["algorithm"] == "core/eigsh"
    assert len(document["runs"]) <= 2
