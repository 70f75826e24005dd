"""Run by `nox -s core`, with core's wheel alone installed and outside the tree: it is whole, and computes."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch

import curvkit_core
from curvkit_core import HessianOperator, MSELoss, Problem, eigsh, load_result, save_result

PROBLEM = """\
import torch
from curvkit_core import MSELoss, Problem

def build():
    inputs = torch.arange(12.0).reshape(6, 2)
    return Problem(torch.nn.Linear(2, 1, bias=False), [(inputs, inputs[:, :1])], MSELoss())
"""
RUN_FILE = """\
schema = 1
[problem]
kind = "core/python"
factory = "my_problem:build"
[[operator]]
kind = "core/ggn"
[[algorithm]]
kind = "core/eigsh"
k = 2
[[algorithm]]
kind = "core/trace"
method = "hutchinson"
[[algorithm]]
kind = "core/spectral-density"
"""


def curvkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command line in `folder`."""
    command = [sys.executable, "-W", "error", "-m", "curvkit_core", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def check_what_is_installed(folder: Path) -> None:
    """Core is the wheel, and nothing else of ours is there."""
    where = Path(curvkit_core.__file__).resolve()
    assert where.is_relative_to(Path(sys.prefix).resolve()), f"{where} is not in {sys.prefix}"
    print(f"core is {where.parent}, version {metadata.version('curvkit-core')}")
    for extra in ("matplotlib", "sklearn", "pytest", "transformers"):
        assert importlib.util.find_spec(extra) is None, f"{extra} is installed: this environment is not clean"
    listed = curvkit(folder, "list-plugins", "--json", "--strict")
    assert listed.returncode == 0, listed.stderr
    plugins = json.loads(listed.stdout)["plugins"]
    assert [(plugin["name"], plugin["status"]) for plugin in plugins] == [("core", "ok")], plugins
    print("only core is listed")


def check_python(folder: Path) -> None:
    """The eigenvalues of a least-squares problem are those of 2 X^T X / N, and a result comes back from its folder."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    targets = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    problem = Problem(torch.nn.Linear(3, 1, bias=False).double(), [(inputs, targets)], MSELoss())
    truth = torch.linalg.eigvalsh(2.0 * inputs.T @ inputs / len(inputs)).flip(0)
    found = eigsh(HessianOperator(problem), k=3, seed=0)
    assert torch.allclose(found.eigenvalues, truth, rtol=1e-10), (found.eigenvalues, truth)
    save_result(found, folder / "result")
    assert torch.equal(load_result(folder / "result").eigenvectors, found.eigenvectors)
    print(f"eigsh agrees with dense algebra: {[round(float(value), 6) for value in found.eigenvalues]}")


def check_run_file(folder: Path) -> None:
    """A run file works with no extra; what an extra would bring is said, or refused by name."""
    (folder / "my_problem.py").write_text(PROBLEM)
    (folder / "run.toml").write_text(RUN_FILE)
    done = curvkit(folder, "run", "run.toml", "--out", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "curvkit-core[plot]" in done.stderr, "nothing says why there are no figures:\n" + done.stderr
    runs = json.loads((folder / "out" / "result.json").read_text())["runs"]
    inputs = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    truth = torch.linalg.eigvalsh(2.0 * inputs.T @ inputs / 6).flip(0)
    found = torch.tensor(runs[0]["result"]["eigenvalues"], dtype=torch.float64)
    assert (found - truth).abs().max() <= 1e-5 * truth[0], (found, truth)  # float32 products
    print("a run file runs, and says which extra draws figures")

    (folder / "digits.toml").write_text(
        RUN_FILE.replace("core/python", "core/digits-mlp").replace("factory", "# factory")
    )
    refused = curvkit(folder, "run", "digits.toml", "--out", "digits")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "scikit-learn" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr, refused.stderr
    assert not (folder / "digits").exists()
    print("core/digits-mlp is refused by name without scikit-learn")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        place = Path(made).resolve()
        check_what_is_installed(place)
        check_python(place)
        check_run_file(place)
