"""Core's own components go through the same hooks; every string of theirs resolves."""

import attrs
import pytest

from curvkit_core import load_registry
from curvkit_core.host.kinds import KINDS

REGISTRY = load_registry(allow=[], environ={})
SPECS = [spec for kind in KINDS for spec in REGISTRY.catalog(kind.kind)]


def test_core_has_no_finding():
    """Its tags, names and summaries pass the checks that plugins pass."""
    (core,) = [p for p in REGISTRY.plugins if p.namespace == "core"]
    assert (core.status, core.findings, core.api) == ("ok", (), "1.0")
    assert len(core.specs) == len(SPECS)


def test_core_names_are_those_of_the_contract():
    """Run files depend on them."""
    assert {spec.name.removeprefix("core/") for spec in SPECS} == {
        "hessian", "ggn", "empirical-fisher", "fisher", "block-diagonal", "eigsh", "trace", "spectral-density",
        "lanczos-tridiagonal",
        "block-lanczos", "lobpcg", "power-iteration", "spectral-norm",
        "cross-entropy", "linear-cross-entropy", "mse", "bce-with-logits", "single", "ce-hvp", "linear-ce",
        "diagonal", "frobenius-norm",
        "solve", "nystrom", "matrix-function", "condition-number",
        "spectral-sum", "sweep", "logdet", "effective-dimension",
        "digits-mlp", "python",
    }  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_factory_resolves(spec):
    """And is callable."""
    assert callable(REGISTRY.load_factory(spec))


@pytest.mark.parametrize("spec", [s for s in SPECS if s.config or s.kind == "algorithm"], ids=lambda s: s.name)
def test_config_is_a_frozen_attrs_class(spec):
    """Plain and hashable: an instance cannot be changed."""
    config = REGISTRY.load_config(spec)
    assert attrs.has(config)
    assert config.__setattr__ is not object.__setattr__


def test_every_summary_says_something():
    """One line each."""
    assert all(spec.summary and not spec.summary.endswith(".") for spec in SPECS)


def test_auto_finds_core_where_there_is_nothing_else():
    """One backend and one kernel, always."""
    assert REGISTRY.backends.auto().spec.name == "core/single"
    assert REGISTRY.kernels.auto(where=lambda s: (s.op == "ce_hvp", "")).spec.name == "core/ce-hvp"
