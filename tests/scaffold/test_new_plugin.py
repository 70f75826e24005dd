"""`curvkit new-plugin`: whole packages that pass their own tests, and nothing at all where something is wrong."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from curvkit_core.scaffold import KINDS, ScaffoldError, new_plugin

ROOT = Path(__file__).parents[2]


def curvkit(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, "-m", "curvkit_core", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=kept | environ,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_whole(kind: str, tmp_path: Path) -> None:
    """Every file parses, no placeholder is left, metadata name the package, and what core reads is light."""
    place = new_plugin("acme-labs2", kind, tmp_path / "made")
    files = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
    package = "src/curvkit_acme_labs2"
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "noxfile.py",
        ".gitignore",
        ".github/workflows/ci.yml",
        "tests/test_conformance.py",
        f"{package}/__init__.py",
        f"{package}/_plugin.py",
        f"{package}/py.typed",
    } <= files.keys()
    assert len([name for name in files if name.startswith("tests/")]) == 2
    for name, text in files.items():
        assert "$" not in text.replace("${{", ""), name
        if name.endswith(".py"):
            tree = ast.parse(text)
            assert ast.get_docstring(tree), name
            assert max((len(line) for line in text.splitlines()), default=0) <= 120, name
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "curvkit-acme-labs2"
    assert project["entry-points"] == {"curvkit.plugins.v1": {"acme-labs2": "curvkit_acme_labs2._plugin"}}
    for light in (f"{package}/_plugin.py", f"{package}/config.py", f"{package}/__init__.py"):
        if light in files:
            assert "import torch" not in files[light]
            assert "from torch" not in files[light]


@pytest.mark.parametrize(
    "name",
    ["", "Acme", "acme_labs", "-acme", "acme-", "a--b", "4me", "a/b", "../x", "core", "local", "hf", "x" * 41, "\xe4"],
)
def test_a_bad_name_exits_with_two_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    """Named, with what is expected."""
    with pytest.raises(ScaffoldError, match="namespace|characters"):
        new_plugin(name, "operator", tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("Acme", "--kind", "operator"), "name 'Acme' does not do as a namespace: expected a letter"),
        (("acme", "--kind", "operater"), "kind 'operater' is unknown; did you mean 'operator'"),
        (("acme",), "--kind"),
        (("core", "--kind", "kernel"), "the namespace 'core' is reserved"),
    ],
)
def test_wrong_arguments_exit_with_two_and_leave_nothing(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    done = curvkit(tmp_path, "new-plugin", *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Not empty: refused by name. Empty: filled."""
    (tmp_path / "curvkit-acme").mkdir()
    (tmp_path / "curvkit-acme" / "mine.txt").write_text("mine")
    done = curvkit(tmp_path, "new-plugin", "acme", "--kind", "operator")
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["curvkit-acme", "mine.txt"]
    (tmp_path / "empty").mkdir()
    assert new_plugin("acme", "operator", tmp_path / "empty").is_dir()
    assert (tmp_path / "empty" / "pyproject.toml").is_file()


def test_what_is_printed_can_be_typed(tmp_path: Path) -> None:
    """The next commands name what was written."""
    done = curvkit(tmp_path, "new-plugin", "acme", "--kind", "loss-adapter")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "wrote curvkit-acme: the distribution curvkit-acme with acme/pseudo-huber",
        "next:",
        '  pip install -e "./curvkit-acme[test]"',
        "  curvkit list-plugins",
        "  curvkit check acme",
    ]


def installed(place: Path, folder: Path) -> Path:
    """The package's wheel, unpacked in a folder of its own."""
    wheels, site = folder / "wheels", folder / "site"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    with zipfile.ZipFile(next(wheels.iterdir())) as wheel:
        assert any(name.endswith("py.typed") for name in wheel.namelist())
        wheel.extractall(site)
    return site


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "operator" else pytest.mark.slow) for k in KINDS])
def test_a_package_is_listed_and_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    """From its wheel: a row in list-plugins without a finding, no test that fails, none that must run skipped."""
    place = new_plugin("acme", kind, tmp_path / "made")
    environ = {"PYTHONPATH": str(installed(place, tmp_path)), "CURVKIT_PLUGINS": "acme"}
    done = curvkit(tmp_path, "list-plugins", "--json", "--strict", **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (acme,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "acme"]
    assert (acme["status"], acme["findings"]) == ("ok", [])
    assert [component["name"] for component in acme["components"]] == [f"acme/{KINDS[kind].stem}"]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)],
        cwd=tmp_path,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-3000:]
    assert int(tests.stdout.rsplit("\n", 2)[-2].split(" passed")[0].split()[-1]) >= 12
