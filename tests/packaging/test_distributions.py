"""What the wheels and the sdist hold, built by the pinned hatchling."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ("hf", "tlens", "triton", "ddp")


def build(source: Path, target: str, folder: Path) -> Path:
    """Build one distribution in a child process and give its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def core_wheel(tmp_path_factory):
    """Core's wheel, opened."""
    with zipfile.ZipFile(build(ROOT, "wheel", tmp_path_factory.mktemp("core_wheel"))) as wheel:
        yield wheel


@pytest.fixture(scope="module", params=PLUGINS)
def plugin_wheel(request, tmp_path_factory):
    """A plugin's name and its wheel, opened."""
    source = ROOT / "plugins" / f"curvkit_{request.param}"
    with zipfile.ZipFile(build(source, "wheel", tmp_path_factory.mktemp(request.param))) as wheel:
        yield request.param, wheel


def metadata_of(wheel: zipfile.ZipFile, file: str) -> str:
    """The text of one file of the wheel's dist-info."""
    (name,) = [name for name in wheel.namelist() if name.endswith(f".dist-info/{file}")]
    return wheel.read(name).decode()


def test_core_wheel_holds_the_package_whole_and_nothing_else(core_wheel):
    """Every module of the tree, the typing marker and the licence; no tests, plugins or examples."""
    names = [name for name in core_wheel.namelist() if ".dist-info/" not in name]
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "curvkit_core").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(names) == tree
    assert "curvkit_core/py.typed" in names
    assert "MIT License" in metadata_of(core_wheel, "licenses/LICENSE")


def test_core_wheel_metadata(core_wheel):
    """Name, version, licence, Python floor, script, extras; no entry point of its own in the plugin group."""
    fields = message_from_string(metadata_of(core_wheel, "METADATA"))
    assert fields["Name"] == "curvkit-core"
    assert fields["License-Expression"] == "MIT"
    assert fields["Requires-Python"] == ">=3.11"
    assert set(fields.get_all("Provides-Extra")) == {
        "hf",
        "tlens",
        "triton",
        "ddp",
        "plot",
        "demo",
        "lightning",
        "testing",
        "all",
    }
    entry_points = metadata_of(core_wheel, "entry_points.txt")
    assert "curvkit = curvkit_core.cli.main:main" in entry_points
    assert "curvkit.plugins" not in entry_points


def test_core_sdist_holds_only_core(tmp_path):
    """`only-include`: hatchling's default would carry plugins/, tests/ and examples/."""
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as sdist:
        top = {Path(name).parts[1] for name in sdist.getnames()}
    assert top - {".gitignore"} == {
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "curvkit_core",
        "pyproject.toml",
    }


def test_plugin_wheel(plugin_wheel):
    """One package, typed and licensed, with one entry point aimed at `_plugin`."""
    name, wheel = plugin_wheel
    package = f"curvkit_{name}"
    files = [file for file in wheel.namelist() if ".dist-info/" not in file]
    assert {Path(file).parts[0] for file in files} == {package}
    assert f"{package}/py.typed" in files
    assert "MIT License" in metadata_of(wheel, "licenses/LICENSE")
    assert metadata_of(wheel, "entry_points.txt").split("\n", 1) == [
        "[curvkit.plugins.v1]",
        f"{name} = {package}._plugin\n",
    ]
    fields = message_from_string(metadata_of(wheel, "METADATA"))
    assert fields["Name"] == f"curvkit-{name}"
    assert "curvkit-core<0.2,>=0.1" in fields.get_all("Requires-Dist")
