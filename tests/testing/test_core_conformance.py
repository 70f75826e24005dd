"""Core's own components pass the kit that third parties run, through the same hooks; so does the Triton plugin."""

from __future__ import annotations

from typing import Any

from curvkit_core import load_registry
from curvkit_core.testing import check_plugin, parametrize_with_checks

CORE = load_registry(allow=[], environ={})


@parametrize_with_checks(plugin="core", registry=CORE)
def test_core(check: Any) -> None:
    check()


def test_triton_is_light_and_tells_why_its_kernels_cannot_run_here() -> None:
    """Its laws are held in `nox -s "plugin(triton)"`; here each skip has its reason, and nothing fails."""
    results = check_plugin("triton", registry=load_registry(allow=["triton"], environ={}))
    assert [str(result) for result in results if result.failed] == []
    assert all(result.reason for result in results if result.status == "skip")
    assert sum(result.status == "pass" for result in results) >= 15
