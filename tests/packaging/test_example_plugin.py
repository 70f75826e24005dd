"""The example plugin as its users have it: its wheel beside core, listed, tested, and run from its run file.

The wheel is unpacked on a path of its own instead of being installed, so that the other tests do not see it;
`nox -s acme` installs it for real.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACME = ROOT / "examples/plugins/acme_curvature"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel."""
    built = tmp_path_factory.mktemp("acme_wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=ACME, check=True, capture_output=True)
    unpacked = tmp_path_factory.mktemp("acme_site")
    with zipfile.ZipFile(next(built.iterdir())) as wheel:
        wheel.extractall(unpacked)
    return unpacked


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in `folder`, with acme as the only plugin that is not core."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    environ |= {"PYTHONPATH": str(site), "CURVKIT_PLUGINS": "acme"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_example_plugin_is_listed(site, tmp_path):
    """Status ok, no finding, one operator and one algorithm that can run here."""
    done = run(site, tmp_path, "-m", "curvkit_core", "list-plugins", "--json", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    (acme,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "acme"]
    assert (acme["status"], acme["dist"], acme["findings"]) == ("ok", "acme-curvature", [])
    assert Path(acme["path"]).resolve() == site.resolve()
    components = {(component["kind"], component["name"]): component["available"] for component in acme["components"]}
    assert components == {("operator", "acme/jacobian-gram"): True, ("algorithm", "acme/subspace-iteration"): True}


def test_example_plugin_tests_pass(site, tmp_path):
    """Its own tests, as its author runs them."""
    arguments = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ACME)]
    done = run(site, tmp_path, "-m", "pytest", *arguments, str(ACME / "tests"))
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    skips = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("no options 'strategy' and 'cache'" in line for line in skips), skips  # a law that it has no options for


def test_example_run_file_runs_both_components(site, tmp_path):
    """Operator and algorithm from a run file; one class's Gram matrix is bounded by that of all classes."""
    out = tmp_path / "run"
    quick = ["--set", "problem.epochs=2", "--set", "problem.examples=100", "--set", "algorithm.0.max_rounds=8"]
    done = run(site, tmp_path, "-m", "curvkit_core", "run", str(ACME / "run.toml"), *quick, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "acme/subspace-iteration" in done.stdout
    runs = json.loads((out / "result.json").read_text())["runs"]
    assert [entry["algorithm"] for entry in runs] == ["acme/subspace-iteration"] * 2
    # J^T J of all outputs is the sum over the outputs: its k-th eigenvalue is at least that of each part
    whole, part = (entry["result"]["eigenvalues"] for entry in runs)
    assert len(whole) == len(part) == 5
    slack = 1.01  # at most 1 % of unconverged tail
    assert all(slack * a >= b > 0 for a, b in zip(whole, part, strict=True))
    assert any(a > 2 * b for a, b in zip(whole, part, strict=True))
