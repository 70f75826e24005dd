"""Checks of whole plugins, on distributions that were never installed: what is heavy, nameless, untyped or absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from curvkit_core import OperatorSpec, Registry, load_registry
from curvkit_core.errors import CurvkitError
from curvkit_core.testing import check_plugin, parametrize_with_checks, run_checks
from curvkit_core.testing.fixtures import isolated_registry, make_dist, tiny_problem  # noqa: F401 - fixtures

INFO = """
from curvkit_core import OperatorSpec, PluginInfo, hookimpl

@hookimpl
def curvkit_plugin_info():
    return PluginInfo(api="{api}")
"""
OPERATORS = """
@hookimpl
def curvkit_operators(ctx):
    yield OperatorSpec(name="{namespace}/ggn", summary="one", factory="curvkit_core.operators:build_ggn",
                       config="{config}", tags=["symmetric", "psd"]{more})
"""
CONFIG = "curvkit_core.operators.config:GGNConfig"


def source(namespace: str, *, api: str = "1.0", head: str = "", config: str = CONFIG, more: str = "") -> str:
    return f"{head}\n{INFO.format(api=api)}\n{OPERATORS.format(namespace=namespace, config=config, more=more)}"


def statuses(namespace: str, registry: Registry, *names: str) -> dict[str, Any]:
    return {r.name: r for r in check_plugin(namespace, registry=registry, only=names)}


def test_a_healthy_plugin_passes(make_dist: Callable[..., Registry]) -> None:  # noqa: F811
    registry = make_dist("kit-healthy", "kit-healthy", source("kit-healthy"))
    results = check_plugin("kit-healthy", registry=registry)
    assert [str(result) for result in results if result.failed] == []
    assert {result.component for result in results} == {"kit-healthy", "kit-healthy/ggn"}
    assert sum(result.status == "pass" for result in results) >= 25


def test_a_plugin_that_imports_torch_at_load_is_seen(make_dist: Callable[..., Registry]) -> None:  # noqa: F811
    """In a process where torch cannot be imported; here it may be loaded already."""
    registry = make_dist("kit-heavy", "kit-heavy", source("kit-heavy", head="import torch"))
    found = statuses("kit-heavy", registry, "plugin-imports-are-light")["plugin-imports-are-light"]
    assert found.status == "fail"
    assert "imports torch" in found.reason


def test_a_configuration_that_imports_torch_is_seen(
    make_dist: Callable[..., Registry],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    (tmp_path / "kit_heavy_config.py").write_text("import torch\nfrom attrs import frozen\n@frozen\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = make_dist("kit-conf", "kit-conf", source("kit-conf", config="kit_heavy_config:C"))
    found = statuses("kit-conf", registry, "component-config-is-light")["component-config-is-light"]
    assert found.status == "fail"
    assert "imports torch" in found.reason


@pytest.mark.parametrize(
    ("name", "text", "check", "reason"),
    [
        ("kit-future", {"api": "1.99"}, "plugin-loads", "needs plugin API 1.99"),
        ("kit-future-two", {"api": "1.99"}, "plugin-handshake", "its API's minor is 99, expected at most"),
        ("kit-nothing", {"head": "raise RuntimeError('broken at import')"}, "plugin-loads", "broken at import"),
    ],
)
def test_a_plugin_that_is_out_fails_with_its_reason(
    make_dist: Callable[..., Registry],  # noqa: F811
    name: str,
    text: dict[str, str],
    check: str,
    reason: str,
) -> None:
    registry = make_dist(name, name, source(name, **text))
    found = statuses(name, registry, check)[check]
    assert found.status == "fail"
    assert reason in found.reason


def test_a_plugin_that_offers_nothing_is_seen(make_dist: Callable[..., Registry]) -> None:  # noqa: F811
    registry = make_dist("kit-empty", "kit-empty", INFO.format(api="1.0"))
    assert statuses("kit-empty", registry, "plugin-offers")["plugin-offers"].status == "fail"


@pytest.mark.parametrize(
    ("check", "fields", "reason"),
    [
        ("component-names", {"name": "local/Upper"}, "malformed"),
        ("component-names", {"summary": "x" * 81}, "81 characters"),
        ("component-names", {"summary": ""}, "the summary is empty"),
        ("component-resolves", {"factory": "curvkit_core.operators:build_gnn"}, "no attribute 'build_gnn'"),
        ("component-requirements", {"requires": ["torch >> 2"]}, "not a PEP 508 requirement"),
        ("component-requirements", {"probe": lambda: 1}, "its probe returned 1"),
    ],
)
def test_a_spec_that_is_wrong_is_seen(check: str, fields: dict[str, Any], reason: str) -> None:
    told = {"name": "local/x", "summary": "one", "factory": "curvkit_core.operators:build_ggn", **fields}
    results = run_checks(OperatorSpec(**told), registry=load_registry(allow=[], environ={}), only=[check])
    assert results[0].status == "fail"
    assert reason in results[0].reason


def test_the_isolated_registry_is_the_default_for_the_time(isolated_registry: Registry) -> None:  # noqa: F811
    """Core alone; what is registered is found by name."""
    from curvkit_core import default_registry

    assert default_registry() is isolated_registry
    assert [plugin.namespace for plugin in isolated_registry.plugins if plugin.status == "ok"] == ["core"]
    isolated_registry.register_local(OperatorSpec(name="local/mine", summary="Mine", factory=lambda p: p))
    assert run_checks("local/mine", only=["component-names"])[0].status == "pass"


def test_the_tiny_problem_fixture_makes_them(tiny_problem: Callable[..., Any]) -> None:  # noqa: F811
    assert tiny_problem("quadratic").problem().parameters.n == 10
    with pytest.raises(ValueError, match="tiny problem 'x' is unknown: expected one of quadratic, logistic, mlp"):
        tiny_problem("x")


def test_parametrizing_needs_something_to_check() -> None:
    """While tests are collected: a typing slip gives no green run of nothing."""
    with pytest.raises(CurvkitError, match="no plugin 'acmee' is installed"):
        parametrize_with_checks(plugin="acmee", registry=load_registry(allow=[], environ={}))
    with pytest.raises(CurvkitError, match="nothing to check"):
        parametrize_with_checks(specs=[])
    with pytest.raises(CurvkitError, match="plugin= or specs="):
        parametrize_with_checks()
    with pytest.raises(CurvkitError, match="expected_failed names 'core/x'"):
        parametrize_with_checks(plugin="core", expected_failed={"core/x": {}})
