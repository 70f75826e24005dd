"""One version for all five distributions, and one place that says core's."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import curvkit_core

ROOT = Path(__file__).parents[2]
PLUGINS = ("hf", "tlens", "triton", "ddp")


def project(path: Path) -> dict:
    """The [project] table of a pyproject.toml."""
    return tomllib.loads((path / "pyproject.toml").read_text())["project"]


def test_core_version_is_said_in_one_place():
    """pyproject.toml reads curvkit_core/version.py, and no other module assigns a version."""
    assert "version" not in project(ROOT)
    assert project(ROOT)["dynamic"] == ["version"]
    says = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "curvkit_core").rglob("*.py")
        if re.search(r"^__version__\s*(:.*)?=", path.read_text(), re.MULTILINE)
    ]
    assert says == ["curvkit_core/version.py"]


def test_core_version_is_the_installed_one():
    """What the module says and what the metadata says are the same."""
    assert curvkit_core.__version__ == metadata.version("curvkit-core")


@pytest.mark.parametrize("name", PLUGINS)
def test_plugin_version_equals_core(name):
    """Released together; each asks for this minor version of core."""
    table = project(ROOT / "plugins" / f"curvkit_{name}")
    assert table["version"] == curvkit_core.__version__
    version = Version(curvkit_core.__version__)
    (core,) = [
        requirement for requirement in map(Requirement, table["dependencies"]) if requirement.name == "curvkit-core"
    ]
    assert {str(part) for part in core.specifier} == {
        f">={version.major}.{version.minor}",
        f"<{version.major}.{version.minor + 1}",
    }


@pytest.mark.parametrize("name", PLUGINS)
def test_extra_of_core_asks_for_the_plugin(name):
    """`curvkit-core[hf]` is `curvkit-hf` of the same minor version."""
    version = Version(curvkit_core.__version__)
    (line,) = project(ROOT)["optional-dependencies"][name]
    requirement = Requirement(line)
    assert requirement.name == f"curvkit-{name}"
    assert requirement.specifier.contains(version)
    assert not requirement.specifier.contains(f"{version.major}.{version.minor + 1}.0")
