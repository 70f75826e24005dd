"""Statuses, expected failures, cases, skips that are told, and runs that are not green for want of checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import pytest
from attrs import evolve
from testing import broken_bindings, broken_losses
from testing.broken_operators import Around, SumNotMean, spec
from torch import nn

from curvkit_core import KernelSpec, OperatorSpec, Problem, load_registry
from curvkit_core.errors import CurvkitError
from curvkit_core.host.kinds import KINDS
from curvkit_core.testing import (
    Case,
    Check,
    LawBrokenError,
    NewCheckWarning,
    Record,
    SkippedError,
    checks_for,
    dense_ggn,
    run_checks,
    running,
    summary,
    tiny_problem,
)
from curvkit_core.testing.catalogue import all_checks
from curvkit_core.testing.subject import Subject

REGISTRY = load_registry(allow=[], environ={})


def a_check(run: Any, **fields: Any) -> Check:
    return Check(**{"name": "made-up", "kind": "operator", "law": "One is one.", "run": run, **fields})


def broken(subject: Subject, record: Record) -> None:
    record.at_most("one", 1.0, 0.5)


def outcome(run: Any, expected: str = "", **fields: Any) -> Any:
    return running.run_check(a_check(run, **fields), Subject(spec(Around), REGISTRY), expected)


def test_a_check_passes_fails_or_is_skipped_with_numbers_and_words() -> None:
    """What was measured is kept, whatever the outcome."""
    passed = outcome(lambda subject, record: record.at_most("one", 1.0, 2.0))
    assert (passed.status, passed.numbers, passed.failed) == ("pass", {"one": 1.0}, False)
    failed = outcome(broken)
    assert (failed.status, failed.failed) == ("fail", True)
    assert failed.reason == "one is 1, expected at most 0.5"
    assert str(failed) == (
        "fail local/broken made-up: one is 1, expected at most 0.5\n  law: One is one.\n  numbers: one = 1"
    )

    def skipped(subject: Subject, record: Record) -> None:
        raise SkippedError("there is no moon")

    assert (outcome(skipped).status, outcome(skipped).reason) == ("skip", "there is no moon")

    def raises(subject: Subject, record: Record) -> None:
        raise SystemExit(3)

    assert (outcome(raises).status, outcome(raises).reason) == ("fail", "SystemExit: 3")


def test_nan_holds_no_bound() -> None:
    with pytest.raises(LawBrokenError, match="x is nan, expected at most 1"):
        Record().at_most("x", float("nan"), 1.0)


def test_an_expected_failure_keeps_its_reason_and_passing_is_a_failure() -> None:
    """xfail is green, xpass is red."""
    expected = outcome(broken, "it cannot")
    assert (expected.status, expected.failed) == ("xfail", False)
    assert expected.reason == "it cannot (one is 1, expected at most 0.5)"
    passed = outcome(lambda subject, record: None, "it cannot")
    assert (passed.status, passed.failed) == ("xpass", True)


def test_a_new_check_warns_for_one_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failure is expected in the release that brings it, and counts in the next."""
    monkeypatch.setattr(running, "__version__", "0.3.1")
    with pytest.warns(NewCheckWarning, match="made-up fails. new in 0.3, it counts from the next release on"):
        assert outcome(broken, since="0.3").status == "xfail"
    monkeypatch.setattr(running, "__version__", "0.4.0")
    assert outcome(broken, since="0.3").status == "fail"
    monkeypatch.setattr(running, "__version__", "0.1.0")
    assert outcome(broken, since="0.1").status == "fail"  # the first release's are nobody's news


def test_a_run_in_which_nothing_ran_has_failed() -> None:
    """All skipped: a kernel of an operation that core does not have, on a device that is not here."""
    cannot = KernelSpec(
        name="local/far",
        summary="Far away",
        factory=lambda *a: None,
        op="ce_hvp",
        probe=lambda: (False, "no such device"),
    )
    results = run_checks(cannot, registry=REGISTRY, only=["kernel-agrees", "kernel-ignored-rows"])
    assert [result.status for result in results] == ["skip", "skip", "fail"]
    assert results[0].reason == "it cannot run here: no such device (probe)"
    assert (results[-1].name, results[-1].failed) == ("ran-any", True)


def test_checks_are_chosen_by_kind_and_tags() -> None:
    """psd brings a check, repeatable another."""
    names = {check.name for check in checks_for(spec(Around, tags=("symmetric",)))}
    assert "operator-psd" not in names
    assert "operator-psd" in {check.name for check in checks_for(spec(Around, tags=("symmetric", "psd")))}
    with pytest.raises(TypeError, match="target is a str: expected a spec"):
        checks_for("core/ggn")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["plugin", *(kind.kind for kind in KINDS)])
def test_checks_are_data(kind: str) -> None:
    """Names are unique and stable, laws are sentences, each says since when."""
    checks = all_checks(kind)
    assert len({check.name for check in checks}) == len(checks) >= 5
    for check in checks:
        assert check.law.endswith((".", ":")) or check.law[-1].isalnum()
        assert len(check.law) > 15
        assert check.since.count(".") == 1
        assert check.name == check.name.lower()


def test_expected_failures_and_cases_are_handed_in() -> None:
    """A truth makes the dense match run; an expectation from the case counts as one from the call."""
    check = "operator-dense-match"
    (without,) = [r for r in run_checks(spec(Around), registry=REGISTRY, only=[check]) if r.name == check]
    assert without.status == "skip"
    assert "no truth was handed in" in without.reason
    case = Case(component="local/broken", truth=dense_ggn, label="small")
    other = Case(component="local/other", truth=lambda problem: None)
    (found,) = run_checks(spec(Around), registry=REGISTRY, cases=[case, other], only=[check])
    assert (found.status, found.case) == ("pass", "small")
    law = "operator-any-order-and-twice"
    (expected,) = run_checks(spec(SumNotMean), registry=REGISTRY, expected_failed={law: "a sum"}, only=[law])
    assert expected.status == "xfail"
    told = evolve(case, expected_failed={law: "a sum"})
    assert run_checks(spec(SumNotMean), registry=REGISTRY, cases=told, only=[law])[0].status == "xfail"


def test_several_cases_run_each_and_what_does_not_execute_once() -> None:
    """Two cases: two results of a law, one of the names."""
    cases = [Case(component="local/broken", label=label) for label in ("a", "b")]
    results = run_checks(spec(Around), registry=REGISTRY, cases=cases, only=["operator-linear", "component-names"])
    assert sorted((r.name, r.case) for r in results) == [
        ("component-names", "a"),
        ("operator-linear", "a"),
        ("operator-linear", "b"),
    ]


def test_a_case_surrounds_its_checks_with_a_context() -> None:
    """It is open inside each check, closed after one that fails too; one that cannot be opened fails the check."""
    events: list[str] = []

    @contextmanager
    def within() -> Iterator[None]:
        events.append("open")
        try:
            yield
        finally:
            events.append("closed")

    def fails(subject: Subject, record: Record) -> None:
        events.append("runs")
        record.at_most("one", 1.0, 0.5)

    subject = Subject(spec(Around), REGISTRY, Case(component="local/broken", within=within))
    assert running.run_check(a_check(fails), subject).status == "fail"
    assert events == ["open", "runs", "closed"]
    shut = Case(component="local/broken", within=lambda: nullcontext(1 / 0))
    found = running.run_check(a_check(fails), Subject(spec(Around), REGISTRY, shut))
    assert (found.status, found.reason) == ("fail", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("brings", [True, False])
def test_a_case_prepares_every_model(brings: bool) -> None:
    """The kit's own and the case's: the operator, and the truth it is held to, are of the model that it gives."""
    seen: list[nn.Module] = []
    given: list[nn.Module] = []

    def build(problem: Problem) -> Any:
        seen.append(problem.model)
        return Around(problem)

    def prepare(model: nn.Module) -> nn.Module:
        given.append(deepcopy(model))
        return given[-1]

    case = Case(
        component="local/broken",
        truth=dense_ggn,
        problem=tiny_problem("quadratic").problem if brings else None,
        prepare=prepare,
    )
    made = OperatorSpec(name="local/broken", summary="As it is", factory=build, tags=("symmetric",))
    only = ["operator-dense-match", "operator-narrow-parameters", "operator-linear"]
    results = run_checks(made, registry=REGISTRY, cases=case, only=only)
    assert [result.status for result in results] == ["skip" if brings else "pass", "pass", "pass"]
    assert len(seen) == (2 if brings else 5)  # of three dtypes on the kit's own, and once for each other law
    assert {id(model) for model in seen} == {id(model) for model in given}


@pytest.mark.parametrize(("bind", "outputs"), [(True, 3), (False, 1)])
def test_a_case_says_whether_a_loss_is_bound(bind: bool, outputs: int) -> None:
    """Bound it hands over hidden states, weight and bias, else logits; the law of binding is asked of both."""
    case = evolve(broken_losses.CASES[0], bind=bind)
    only = ["loss-outputs-are-graph-tensors", "loss-binding"]
    told, bound = run_checks(broken_bindings.spec(broken_bindings.Sound), registry=REGISTRY, cases=case, only=only)
    assert (told.status, bound.status) == ("pass", "pass")
    assert told.numbers["output tensors"] == outputs
    assert bound.numbers["the relative gap of the GGN product"] <= 1e-13


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"expected_failed": {"operator-linar": "x"}}, "has no check 'operator-linar'; did you mean 'operator-linear'"),
        ({"only": ["linear"]}, "has no check 'linear'"),
        ({"cases": [3]}, "holds an item of type int: expected curvkit_core.testing.Case"),
        ({"cases": "no.such.module:CASES"}, "the cases 'no.such.module:CASES' failed at import"),
        ({"cases": Case(component="local/broken", expected_failed={"x": "y"})}, "has no check 'x'"),
    ],
)
def test_slips_are_named(arguments: Any, text: str) -> None:
    with pytest.raises(CurvkitError, match=text):
        run_checks(spec(Around), registry=REGISTRY, **arguments)


def test_unknown_components_and_plugins_are_named() -> None:
    with pytest.raises(CurvkitError, match="component 'core/gnn' is unknown; did you mean 'core/ggn'"):
        run_checks("core/gnn", registry=REGISTRY)
    with pytest.raises(CurvkitError, match="no plugin 'cor' is installed; did you mean 'core'"):
        running.check_plugin("cor", registry=REGISTRY)


def test_an_option_without_default_is_a_skip_that_says_what_to_do() -> None:
    """core/python needs its factory."""
    results = run_checks("core/python", registry=REGISTRY, cases=[], only=["problem-builds", "component-names"])
    skipped = next(result for result in results if result.name == "problem-builds")
    assert skipped.status == "skip"
    assert "its option 'factory' has no default: hand in Case(component='core/python', options=...)" in skipped.reason


def test_a_factory_that_fails_fails_each_check_that_needs_it() -> None:
    """Data, never an exception."""
    absent = OperatorSpec(name="local/absent", summary="Absent", factory="no.such.module:build")
    results = run_checks(absent, registry=REGISTRY, only=["operator-linear", "component-resolves"])
    assert [result.status for result in results] == ["fail", "fail"]
    assert all("no.such.module" in result.reason for result in results)


def test_summary_counts_all_statuses() -> None:
    results = [outcome(broken), outcome(broken, "known"), outcome(lambda s, r: None)]
    assert summary(results).startswith("1 passed, 1 failed, 1 failed as expected, in ")


def test_importing_the_kit_imports_neither_torch_nor_pytest() -> None:
    program = "import sys, curvkit_core.testing as t; t.Case, t.Check, t.checks_for, t.run_checks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "pytest", "numpy"} & set(done.stdout.split())
