"""The kit under pytest: one test a check, so that a failure has the law in its name and the numbers in its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from curvkit_core.errors import CurvkitError
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.testing.case import Cases
from curvkit_core.testing.check import Check
from curvkit_core.testing.running import plan_checks, plugin_targets, run_check
from curvkit_core.testing.subject import Subject

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry

__all__ = ["BoundCheck", "parametrize_with_checks"]


@frozen(kw_only=True, eq=False)
class BoundCheck:
    """A check and what it runs on; calling it passes, fails, skips or xfails the test."""

    check: Check
    subject: Subject
    expected: str = ""

    def __call__(self) -> None:
        """Run it inside a test.

        Raises
        ------
        AssertionError
            With law, reason and numbers.
        """
        import pytest

        result = run_check(self.check, self.subject, self.expected)
        if result.status == "skip":
            pytest.skip(result.reason)
        if result.status == "xfail":
            pytest.xfail(result.reason)
        if result.failed:
            raise AssertionError(str(result))

    def __str__(self) -> str:
        case = f"[{self.subject.case.label}]" if self.subject.case.label else ""
        return f"{self.subject.name}{case}:{self.check.name}"


def parametrize_with_checks(
    plugin: str | None = None,
    *,
    specs: Iterable[ComponentSpec | PluginRecord] | None = None,
    expected_failed: Mapping[str, Mapping[str, str]] | None = None,
    cases: Cases = None,
    registry: Registry | None = None,
) -> Any:
    """Make a test function run once for each check of a plugin and of its components.

    Parameters
    ----------
    plugin : str
        Its namespace or its distribution's name.
    specs : iterable of ComponentSpec, optional
        Instead of a plugin: these, ``local/`` ones too.
    expected_failed : mapping of str to mapping, optional
        By component: checks that cannot pass, each with the reason.
    cases, registry
        As in :func:`curvkit_core.testing.run_checks`.

    Returns
    -------
    pytest.MarkDecorator
        For a test function with the one argument ``check``, which it calls.

    Raises
    ------
    CurvkitError
        While tests are collected: if no such plugin is installed, or it has nothing to check.

    Examples
    --------
    .. code-block:: python

        from curvkit_core.testing import parametrize_with_checks


        @parametrize_with_checks(plugin="acme")
        def test_conformance(check):
            check()
    """
    import pytest

    if (plugin is None) == (specs is None):
        msg = "parametrize_with_checks takes plugin= or specs=, one of them."
        raise CurvkitError(msg)
    if registry is None:
        from curvkit_core.host.registry import default_registry

        registry = default_registry()
    targets = plugin_targets(plugin, registry) if plugin is not None else list(specs or ())
    by_component = dict(expected_failed or {})
    bound = []
    for target in targets:
        name = target.namespace if isinstance(target, PluginRecord) else target.name
        planned = plan_checks(target, registry, cases, by_component.pop(name, None))
        bound += [BoundCheck(check=check, subject=subject, expected=why) for check, subject, why in planned]
    if by_component:
        known = ", ".join(t.namespace if isinstance(t, PluginRecord) else t.name for t in targets)
        msg = f"expected_failed names {sorted(by_component)[0]!r}, which is none of {known}."
        raise CurvkitError(msg)
    if not bound:
        msg = "there is nothing to check: a run of no checks is no green one."
        raise CurvkitError(msg)
    return pytest.mark.parametrize("check", bound, ids=str)
