"""First-party plugins and the example use public names of core only."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("examples/plugins/*/src/**/*.py")])


def core_names(source: str) -> list[tuple[str, str | None]]:
    """(module, name) of every import from core; name is None for a bare `import curvkit_core.x`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name.split(".")[0] == "curvkit_core"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "curvkit_core":
            found += [(node.module, alias.name) for alias in node.names]
    return found


def is_public(module: str, name: str | None) -> bool:
    """Whether the module has no private part and lists the name in `__all__`."""
    if any(part.startswith("_") for part in module.split(".")):
        return False
    return name is None or name in getattr(importlib.import_module(module), "__all__", ())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_from_core_are_public(path):
    """Each name is in the `__all__` of the module it is imported from."""
    assert [pair for pair in core_names(path.read_text()) if not is_public(*pair)] == []


def test_a_private_name_is_seen():
    """Negative control."""
    pairs = core_names(
        "from curvkit_core.version import _x\nimport curvkit_core._private\nfrom curvkit_core import eigsh"
    )
    assert [is_public(*pair) for pair in pairs] == [False, False, True]
