"""Run the checks of a component, of a plugin, or of all: results as data, never an exception for a broken component."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from attrs import evolve

from curvkit_core.errors import CurvkitError
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.testing.case import CASES_ATTRIBUTE, Case, Cases, load_cases
from curvkit_core.testing.catalogue import checks_for
from curvkit_core.testing.check import Check, CheckResult, LawBrokenError, Record, SkippedError
from curvkit_core.testing.subject import Subject
from curvkit_core.version import __version__

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry

__all__ = ["NewCheckWarning", "check_plugin", "plan_checks", "run_check", "run_checks", "summary"]


class NewCheckWarning(UserWarning):
    """A check that this release brought fails: it will count from the next release on."""


def run_checks(
    target: ComponentSpec | PluginRecord | str,
    *,
    expected_failed: Mapping[str, str] | None = None,
    cases: Cases = None,
    registry: Registry | None = None,
    only: Iterable[str] | None = None,
) -> list[CheckResult]:
    """Hold a component to the laws of its kind.

    Parameters
    ----------
    target : ComponentSpec, PluginRecord or str
        A spec (``local/`` ones too), a plugin's record, or a component's name in the registry.
    expected_failed : mapping of str to str, optional
        Checks that cannot pass, by name, each with the reason. One that passes all the same is a failure.
    cases : Case, iterable of Case, callable or str, optional
        What the kit is to try it on, where its own small models do not fit: see :class:`Case`. Those of other
        components are passed by. A plugin's own are found by the string ``CHECK_CASES`` in its module.
    registry : Registry, optional
        Whose factories and availability; by default the process-wide one.
    only : iterable of str, optional
        Names of the checks to run; by default all.

    Returns
    -------
    list of CheckResult
        In order. Where no check ran, a last one, ``ran-any``, has failed.

    Raises
    ------
    CurvkitError
        If `expected_failed` or `only` names a check that this component does not have.
    """
    registry = _registry(registry)
    found = _component(target, registry) if isinstance(target, str) else target
    name = found.namespace if isinstance(found, PluginRecord) else found.name
    return _or_none_ran(
        [run_check(*planned) for planned in plan_checks(found, registry, cases, expected_failed, only)], name
    )


def _or_none_ran(results: list[CheckResult], name: str) -> list[CheckResult]:
    """The results, with a failure at their end where all of them are skips."""
    if all(result.status == "skip" for result in results):
        reason = f"none of {len(results)} checks ran: a run that skips all is no green one"
        results.append(
            CheckResult(name="ran-any", component=name, status="fail", law="At least one check runs.", reason=reason)
        )
    return results


def check_plugin(
    namespace: str,
    *,
    expected_failed: Mapping[str, str] | None = None,
    cases: Cases = None,
    registry: Registry | None = None,
    only: Iterable[str] | None = None,
) -> list[CheckResult]:
    """Hold a plugin, and every component that it offers, to their laws; arguments as in :func:`run_checks`.

    Raises
    ------
    CurvkitError
        If no such plugin is installed, or a name in `expected_failed` or `only` is no check of any of its parts.
    """
    registry = _registry(registry)
    targets = plugin_targets(namespace, registry)
    known = {check.name for target in targets for check in checks_for(target)}
    _refuse_unknown({*(expected_failed or {}), *(only or ())}, known, namespace)
    results: list[CheckResult] = []
    for target in targets:
        own = {check.name for check in checks_for(target)}
        mine = None if only is None else own.intersection(only)
        if mine is not None and not mine:
            continue
        expected = {name: reason for name, reason in (expected_failed or {}).items() if name in own}
        results += [run_check(*planned) for planned in plan_checks(target, registry, cases, expected, mine)]
    return _or_none_ran(results, namespace)


def plugin_targets(namespace: str, registry: Registry) -> list[ComponentSpec | PluginRecord]:
    """The plugin's record and its specs.

    Raises
    ------
    CurvkitError
        If no such plugin is installed.
    """
    for plugin in registry.plugins:
        if namespace in (plugin.namespace, plugin.dist):
            return [plugin, *plugin.specs]
    from curvkit_core.host.near_names import did_you_mean

    known = [plugin.namespace for plugin in registry.plugins]
    msg = f"no plugin {namespace!r} is installed{did_you_mean(namespace, known)}. Installed: {', '.join(known)}"
    raise CurvkitError(msg)


Planned = tuple[Check, Subject, str]


def plan_checks(
    target: ComponentSpec | PluginRecord,
    registry: Registry,
    cases: Cases = None,
    expected_failed: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
) -> list[Planned]:
    """Each check with what it is to run on and, where it is expected to fail, the reason."""
    checks = checks_for(target)
    known = {check.name for check in checks}
    name = target.namespace if isinstance(target, PluginRecord) else target.name
    mine = [case for case in _cases(cases, target, registry) if case.component == name]
    expected = dict(expected_failed or {})
    for case in mine:
        _refuse_unknown(set(case.expected_failed), known, name)
    _refuse_unknown({*expected, *(only or ())}, known, name)
    wanted = known if only is None else set(only)
    planned: list[Planned] = []
    tried: list[Case | None] = [*mine] or [None]
    for number, chosen in enumerate(tried):
        subject = Subject(target, registry, chosen)
        reasons = {**(chosen.expected_failed if chosen is not None else {}), **expected}
        for check in checks:
            # what does not execute the component is the same in every case
            if check.name in wanted and (number == 0 or check.executes):
                planned.append((check, subject, reasons.get(check.name, "")))
    return planned


def run_check(check: Check, subject: Subject, expected: str = "") -> CheckResult:
    """Run one check; `expected` is the reason why it should fail, empty where it should not."""
    record = Record()
    start = time.perf_counter()
    status, reason = _outcome(check, subject, record)
    result = CheckResult(
        name=check.name,
        component=subject.name,
        status=status,
        law=check.law,
        reason=reason,
        seconds=time.perf_counter() - start,
        numbers=dict(record.numbers),
        case=subject.case.label,
    )
    if expected and status == "fail":
        return evolve(result, status="xfail", reason=f"{expected} ({reason})")
    if expected and status == "pass":
        return evolve(result, status="xpass", reason=f"it was expected to fail, and passed: {expected}")
    if status == "fail" and check.is_new(__version__):
        text = f"new in {check.since}, it counts from the next release on: {reason}"
        warnings.warn(f"{subject.name} {check.name} fails. {text}", NewCheckWarning, stacklevel=2)
        return evolve(result, status="xfail", reason=text)
    return result


def summary(results: Iterable[CheckResult]) -> str:
    """``41 passed, 1 failed, 2 skipped, 1 failed as expected, in 12.3 s``."""
    results = list(results)
    count = Counter(result.status for result in results)
    parts = [f"{count['pass']} passed", f"{count['fail']} failed"]
    words = {"xpass": "passed that should fail", "skip": "skipped", "xfail": "failed as expected"}
    parts += [f"{count[status]} {text}" for status, text in words.items() if count[status]]
    return f"{', '.join(parts)}, in {sum(result.seconds for result in results):.1f} s"


def _outcome(check: Check, subject: Subject, record: Record) -> tuple[str, str]:
    try:
        if check.executes and (why := subject.why_not()):
            return "skip", why
        with nullcontext() if subject.case.within is None else subject.case.within():
            check.run(subject, record)
    except SkippedError as skipped:
        return "skip", str(skipped)
    except LawBrokenError as broken:
        return "fail", str(broken)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a component raises is what its check found
        return "fail", f"{type(error).__name__}: {error}".strip()
    return "pass", ""


def _registry(registry: Registry | None) -> Registry:
    if registry is not None:
        return registry
    from curvkit_core.host.registry import default_registry

    return default_registry()


def _component(name: str, registry: Registry) -> ComponentSpec:
    found = registry.find(name)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        msg = f"{name!r} is the name of {' and '.join(spec.kind for spec in found)}: pass the spec."
        raise CurvkitError(msg)
    from curvkit_core.host.kinds import KINDS
    from curvkit_core.host.near_names import did_you_mean

    names = [n for kind in KINDS for n in registry.catalog(kind.kind).names()]
    msg = f"component {name!r} is unknown{did_you_mean(name, names)}. All of them: curvkit list-plugins --components"
    raise CurvkitError(msg)


def _cases(cases: Cases, target: ComponentSpec | PluginRecord, registry: Registry) -> tuple[Case, ...]:
    """Those handed in, else the plugin's own."""
    if cases is not None or isinstance(target, PluginRecord):
        return load_cases(cases)
    plugin = registry.plugin(target.namespace)
    if plugin is None:
        return ()
    from curvkit_core.testing.checks_plugin import module_of

    module = module_of(plugin)
    if module is None:
        return ()
    import importlib

    return load_cases(getattr(importlib.import_module(module), CASES_ATTRIBUTE, None))


def _refuse_unknown(names: set[str], known: set[str], where: str) -> None:
    unknown = sorted(names - known)
    if unknown:
        from curvkit_core.host.near_names import did_you_mean

        near = did_you_mean(unknown[0], known)
        msg = f"{where} has no check {unknown[0]!r}{near}. Its checks: {', '.join(sorted(known))}"
        raise CurvkitError(msg)


def checks_named(name: str, registry: Registry) -> list[Check]:
    """The checks of a plugin and all its components, or of one component, each once."""
    targets = [_component(name, registry)] if "/" in name else plugin_targets(name, registry)
    return list({check.name: check for target in targets for check in checks_for(target)}.values())
