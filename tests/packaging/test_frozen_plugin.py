"""A plugin built for plugin API 1.0 goes on working: a wheel that was built once, with a component of each kind."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEEL = next((Path(__file__).parents[1] / "fixtures" / "wheels").glob("curvkit_frozen-*.whl"))
KINDS = {"operator", "algorithm", "loss adapter", "backend", "kernel", "problem"}
LISTED = """
import sys
import curvkit_core.version as version
version.PLUGIN_API, version.__version__ = sys.argv[1], sys.argv[2]
from curvkit_core import load_registry
(frozen,) = [p for p in load_registry().plugins if p.namespace == "frozen"]
print(frozen.status, len(frozen.specs), "|", frozen.reason)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked on a path of its own."""
    folder = tmp_path_factory.mktemp("frozen")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return folder


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    environ = kept | {"PYTHONPATH": str(site), "CURVKIT_PLUGINS": "frozen"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_it_is_listed_with_a_component_of_each_kind(site: Path, tmp_path: Path) -> None:
    """Status ok, no finding."""
    done = run(site, tmp_path, "-m", "curvkit_core", "list-plugins", "--json", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    (frozen,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "frozen"]
    assert (frozen["status"], frozen["findings"], frozen["api"]) == ("ok", [], "1.0")
    assert {component["kind"] for component in frozen["components"]} == KINDS


def test_it_passes_the_conformance_kit_of_today(site: Path, tmp_path: Path) -> None:
    """All laws, those that came since as well: nothing failed, and nothing that must run was skipped."""
    done = run(site, tmp_path, "-m", "curvkit_core", "check", "frozen", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["counts"]["pass"] >= 90
    assert {row["component"] for row in document["results"]} >= {"frozen", "frozen/scaled-ggn", "frozen/sine"}


@pytest.mark.parametrize(
    ("api", "version", "expected"),
    [
        ("1.0", "0.1.0", "ok 6 |"),
        ("1.1", "0.2.0", "ok 6 |"),  # the next minor of the same major
        ("1.7", "3.0.0", "ok 6 |"),  # core's own version does not matter
        ("2.0", "1.0.0", "incompatible 0 | needs plugin API 1."),  # the next major does not take it
    ],
)
def test_a_host_of_the_same_api_major_takes_it(
    site: Path, tmp_path: Path, api: str, version: str, expected: str
) -> None:
    done = run(site, tmp_path, "-c", LISTED, api, version)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(expected), done.stdout
