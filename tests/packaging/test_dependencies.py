"""What core declares is what it imports, no more and no less; what the sessions install is pinned."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Import names whose distribution is called otherwise.
DISTRIBUTIONS = {"attr": "attrs", "sklearn": "scikit-learn"}
# The SciPy export imports both inside its one function: who asks for a SciPy operator has SciPy, and NumPy with it.
# Who asks for a pandas frame has pandas.
BRINGS_YOUR_OWN = {"scipy", "numpy", "pandas"}


def imported(source: str) -> set[str]:
    """Top-level names of every absolute import in `source`, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def third_party(sources: list[str]) -> set[str]:
    """Distributions that `sources` import, besides the standard library and core itself."""
    names = set().union(*map(imported, sources)) - set(sys.stdlib_module_names) - {"curvkit_core"}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names}


def names_of(lines: list[str]) -> set[str]:
    """Distribution names of requirement lines."""
    return {canonicalize_name(Requirement(line).name) for line in lines}


def core_sources() -> list[str]:
    """The text of every module of core."""
    return [path.read_text() for path in (ROOT / "curvkit_core").rglob("*.py")]


def pins() -> dict[str, Version]:
    """constraints.txt, name to version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in split}


def test_declared_dependencies_are_the_imported_ones():
    """Nothing is required that core does not import, nothing imported that it does not ask for."""
    declared = names_of(PROJECT["dependencies"])
    optional = set().union(
        *(names_of(PROJECT["optional-dependencies"][extra]) for extra in ("plot", "demo", "testing", "lightning"))
    )
    used = third_party(core_sources())
    assert declared - used == set()
    assert used - declared - optional - BRINGS_YOUR_OWN == set()


def test_the_dependency_check_sees_an_undeclared_import():
    """Negative control: an import inside a function is found."""
    assert third_party(["def f():\n    import tqdm.auto\n    from .x import y\n"]) == {"tqdm"}


@pytest.mark.parametrize("name", ["hf", "tlens", "triton", "ddp"])
def test_plugin_imports_only_what_it_declares(name):
    """A plugin imports its own package, core, torch (which core brings) and what it declares, in extras too."""
    folder = ROOT / "plugins" / f"curvkit_{name}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    declared = names_of(sum(project.get("optional-dependencies", {}).values(), project["dependencies"]))
    used = third_party([path.read_text() for path in (folder / "src").rglob("*.py")])
    assert used - {canonicalize_name(f"curvkit_{name}"), "torch"} <= declared


def test_pins_satisfy_the_declared_ranges():
    """Every requirement of core and of its own extras has a pin inside its range."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["plot"] + extras["demo"] + extras["testing"]
    for requirement in map(Requirement, lines):
        pinned = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), f"{requirement} but constraints.txt has {pinned}"


def test_everything_the_tests_install_is_pinned():
    """The closure of what `nox -s tests` asks for, by the installed metadata, is in constraints.txt."""
    waiting = ["curvkit-core[plot,demo,testing]", "hatchling", "editables", "import-linter", "pytest-xdist"]
    seen = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        for line in metadata.requires(name) or []:
            child = Requirement(line)
            environments = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if child.marker is None or any(child.marker.evaluate(environment) for environment in environments):
                waiting.append(re.sub(r";.*", "", line))
    needed = {name for name, _ in seen} - {"curvkit-core"}
    assert {"torch", "numpy", "pytest"} <= needed
    # CUDA libraries come with torch's wheel and are pinned by it.
    assert {name for name in needed if not name.startswith(("nvidia-", "cuda-"))} - set(pins()) - {"triton"} == set()
