"""The example plugins of one component each, as their users have them: from their wheels, listed, tested and run.

The wheels are unpacked on a path of their own instead of being installed, so that the other tests do not see them;
`nox -s examples` installs them for real. `test_example_plugin.py` does the same for the one with two components.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "problem.epochs=2", "--set", "problem.examples=100", "--set", "problem.hidden=[8]"]
EXAMPLES = {
    "laplace": ("laplace_precision", ("operator", "laplace/precision")),
    "krylov": ("krylov_svd", ("algorithm", "krylov/svd")),
}


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Its namespace, its source, and a folder with its wheel unpacked."""
    source = ROOT / "examples/plugins" / EXAMPLES[request.param][0]
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(built.iterdir())) as wheel:
        wheel.extractall(site)
    return request.param, source, site


def run(example: tuple[str, Path, Path], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    environ |= {"PYTHONPATH": str(example[2]), "CURVKIT_PLUGINS": example[0]}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_it_is_listed_without_a_finding(example: tuple[str, Path, Path], tmp_path: Path) -> None:
    done = run(example, tmp_path, "-m", "curvkit_core", "list-plugins", "--json", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == example[0]]
    assert (found["status"], found["findings"]) == ("ok", [])
    assert [(c["kind"], c["name"]) for c in found["components"]] == [EXAMPLES[example[0]][1]]


def test_its_own_tests_pass(example: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Those against dense matrices, and the conformance kit with what is expected to fail."""
    source = example[1]
    arguments = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(source)]
    done = run(example, tmp_path, "-m", "pytest", *arguments, str(source / "tests"))
    assert done.returncode == 0, done.stdout[-3000:]
    last = done.stdout.strip().splitlines()[-1]
    assert int(last.split(" passed")[0].split()[-1]) >= 25, last


def test_its_run_file_runs(example: tuple[str, Path, Path], tmp_path: Path) -> None:
    """From the file, on a real network; the numbers are in the result."""
    out = tmp_path / "run"
    done = run(example, tmp_path, "-m", "curvkit_core", "run", str(example[1] / "run.toml"), *QUICK, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = json.loads((out / "result.json").read_text())["runs"]
    values = entry["result"].get("singular_values") or entry["result"]["eigenvalues"]
    assert len(values) in (4, 5)
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
