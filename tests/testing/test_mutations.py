"""The mutation proof: each broken component is caught by the check of the law that it breaks, with numbers or words.

The broken components lie in `broken_*.py`, one defect each, beside their sound twins, which pass everything.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from testing import broken_algorithms, broken_bindings, broken_losses, broken_operators, broken_others

from curvkit_core.host.kinds import KINDS
from curvkit_core.testing import Case, CheckResult, checks_for, dense_ggn, run_checks

SETS = (broken_operators, broken_algorithms, broken_losses, broken_bindings, broken_others)
BROKEN = {f"{name} ({spec.kind})": (check, spec) for part in SETS for name, (check, spec) in part.BROKEN.items()}
SOUND = {f"{name} ({spec.kind})": spec for part in SETS for name, spec in part.SOUND.items()}
CASES = [*broken_losses.CASES, Case(component="local/broken", truth=dense_ggn)]


def cases_for(spec: Any) -> list[Case]:
    """A model for the losses, a truth for the operators, nothing for the others."""
    if spec.kind == "loss adapter":
        return broken_losses.CASES
    return [Case(component=spec.name, truth=dense_ggn)] if spec.kind == "operator" else []


def results_of(spec: Any, only: list[str] | None = None) -> dict[str, CheckResult]:
    return {result.name: result for result in run_checks(spec, cases=cases_for(spec), only=only)}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_component_is_caught_by_the_law_it_breaks(what: str) -> None:
    """The named check fails, says why, and states its law."""
    check, spec = BROKEN[what]
    found = results_of(spec, [check])[check]
    assert found.status == "fail", f"{check} did not see it: {found}"
    assert found.reason
    assert found.law


@pytest.mark.parametrize("what", SOUND)
def test_the_same_component_not_broken_passes_everything(what: str) -> None:
    """No false alarm: the twins from which the broken ones are made."""
    found = results_of(SOUND[what])
    assert [str(result) for result in found.values() if result.failed] == []
    assert sum(result.status == "pass" for result in found.values()) >= 7


def test_every_kind_and_nearly_every_check_is_broken_by_something() -> None:
    """30 at least, of all six kinds; a check that nothing here breaks is named, with where it is broken instead."""
    assert len(BROKEN) >= 30
    assert Counter(spec.kind for _, spec in BROKEN.values()).keys() == {kind.kind for kind in KINDS}
    elsewhere = {
        "component-names",  # test_plugin_checks.py, as those that follow
        "component-requirements",
        "component-resolves",
        "component-config-is-light",
        "backend-two-ranks",  # test_backend_ranks.py
    }
    every = {check.name for _, spec in BROKEN.values() for check in checks_for(spec)}
    assert every - {check for check, _ in BROKEN.values()} <= elsewhere
