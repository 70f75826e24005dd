"""Names that plugins may import stay: `stable_names.json` lists those of the last release, a module a key.

A name that goes away is deprecated first, for two minor releases (docs/plugins.md); then it is taken from the list.
`python tests/packaging/test_stable_names.py` adds what is new, for a release.
"""

import importlib
import json
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("stable_names.json")
MODULES = (
    "curvkit_core",
    "curvkit_core.algorithms",
    "curvkit_core.backends",
    "curvkit_core.config",
    "curvkit_core.errors",
    "curvkit_core.kernels",
    "curvkit_core.linearize",
    "curvkit_core.losses",
    "curvkit_core.operators",
    "curvkit_core.problem",
    "curvkit_core.results",
    "curvkit_core.testing",
)


def names_of(module: str) -> set[str]:
    return set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_listed_name_is_still_there(module: str) -> None:
    """In `__all__`, and importable."""
    listed = json.loads(LIST.read_text())[module]
    found = importlib.import_module(module)
    assert listed
    assert sorted(set(listed) - names_of(module)) == []
    assert all(getattr(found, name) is not None for name in listed)


if __name__ == "__main__":
    before = json.loads(LIST.read_text()) if LIST.is_file() else {}
    merged = {module: sorted({*before.get(module, ()), *names_of(module)}) for module in MODULES}
    LIST.write_text(json.dumps(merged, indent=1) + "\n")
