"""Fixtures for plugin authors' tests; opt in with ``pytest_plugins = ["curvkit_core.testing.fixtures"]``.

Never an entry point of pytest's own: a kit that loads itself would import the package before coverage starts, and in
projects that have nothing to do with it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curvkit_core.host.registry import Registry, configure_default, load_registry
from curvkit_core.testing.tiny_problems import TinyProblem
from curvkit_core.testing.tiny_problems import tiny_problem as make_tiny_problem

__all__ = ["isolated_registry", "make_dist", "tiny_problem"]

GROUP = "curvkit.plugins.v1"


@pytest.fixture
def isolated_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry of core alone, which is the process-wide one for the test's time: register ``local/`` specs in it."""
    for name in [n for n in os.environ if n.startswith("CURVKIT_")]:
        monkeypatch.delenv(name)
    configure_default(allow=())
    from curvkit_core.host.registry import default_registry

    yield default_registry()
    configure_default()


@pytest.fixture
def make_dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """``make_dist("acme-curvature", "acme", source)``: a distribution that was never installed, and a registry with it.

    The first argument is its name, the second its namespace, the third its module's text; ``version=`` is 1.0. It gives
    a fresh registry in which core and what this fixture has made are all there is.
    """
    folder = tmp_path / "made-dists"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made: list[str] = []
    namespaces: list[str] = []

    def make(dist: str, namespace: str, source: str, *, version: str = "1.0", group: str = GROUP) -> Registry:
        module = dist.replace("-", "_")
        if module in sys.modules:
            msg = f"dist={dist!r}: a module {module!r} is imported already. Choose another name."
            raise ValueError(msg)
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{group}]\n{namespace} = {module}\n", encoding="utf-8")
        importlib.invalidate_caches()
        made.append(module)
        namespaces.append(dist)
        return load_registry(allow=namespaces, environ={})

    yield make
    for module in made:
        sys.modules.pop(module, None)
    importlib.invalidate_caches()


@pytest.fixture
def tiny_problem() -> Callable[..., TinyProblem]:
    """``tiny_problem("mlp")``, ``"quadratic"`` or ``"logistic"``: float64, with dense truths."""
    return make_tiny_problem
