"""What a check is, what it found, and how it says so: a law in words, numbers, and the limit that they passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field, frozen

if TYPE_CHECKING:
    from curvkit_core.testing.subject import Subject

__all__ = ["STATUSES", "Check", "CheckResult", "LawBrokenError", "Record", "SkippedError", "check"]

STATUSES = ("pass", "fail", "xfail", "xpass", "skip")
FIRST = "0.1"  # the kit's first release: its checks are nobody's news

Run = Callable[["Subject", "Record"], None]


class LawBrokenError(AssertionError):
    """A check's law does not hold; the text has the numbers."""


class SkippedError(Exception):
    """A check cannot be made here; the text is the reason, which is counted and told."""


@define(kw_only=True)
class Record:
    """What a check has measured so far: kept also where it fails.

    Parameters
    ----------
    numbers : dict of str to float
        By what they are.
    """

    numbers: dict[str, float] = Factory(dict)

    def at_most(self, what: str, value: float, limit: float) -> None:
        """Hold that ``value <= limit``; NaN is not. The worst value of each `what` is kept."""
        value = float(value)
        self.numbers[what] = max(self.numbers.get(what, value), value)
        if not value <= limit:
            msg = f"{what} is {value:.3g}, expected at most {limit:.3g}"
            raise LawBrokenError(msg)

    def more_than(self, what: str, value: float, limit: float) -> None:
        """Hold that ``value > limit``."""
        self.numbers[what] = float(value)
        if not value > limit:
            msg = f"{what} is {value:.3g}, expected more than {limit:.3g}"
            raise LawBrokenError(msg)

    def equal(self, what: str, found: Any, expected: Any) -> None:
        """Hold that two plain values are equal."""
        if isinstance(found, int | float) and not isinstance(found, bool):
            self.numbers[what] = float(found)
        if found != expected:
            msg = f"{what} is {found!r:.200}, expected {expected!r:.200}"
            raise LawBrokenError(msg)

    def true(self, condition: object, text: str) -> None:
        """Hold a condition; `text` says what is wrong where it does not."""
        if not condition:
            raise LawBrokenError(text)

    def note(self, what: str, value: float) -> None:
        """Put down a number that nothing is held to."""
        self.numbers[what] = float(value)


def _always(spec: Any) -> bool:
    return True


@frozen(kw_only=True)
class Check:
    """One law and the test of it.

    Parameters
    ----------
    name : str
        Stable, for people and for ``expected_failed=``: ``"operator-symmetric"``.
    kind : str
        Which components it is for, as a spec's ``kind`` has it; ``"plugin"`` for a whole plugin, ``"component"`` for
        all kinds.
    law : str
        What must hold, in words.
    run : callable
        ``run(subject, record)``: raises where the law does not hold.
    since : str
        The curvkit-core release (MAJOR.MINOR) that brought it. While that release is the current one, a failure is a
        warning and an expected failure: a new check gives authors one release's notice.
    executes : bool
        Whether it calls the component; such checks are skipped, with the reason, where the component cannot run.
    concerns : callable
        ``concerns(spec)``: whether the spec's tags and fields call for it.
    """

    name: str
    kind: str
    law: str
    run: Run = field(repr=False)
    since: str = FIRST
    executes: bool = True
    concerns: Callable[[Any], bool] = field(default=_always, repr=False)

    def is_new(self, version: str) -> bool:
        """Tell whether `version` of curvkit-core is of the release that brought this check."""
        return self.since != FIRST and version.split(".")[:2] == self.since.split(".")[:2]


def check(
    kind: str, *, prefix: str | None = None, since: str = FIRST, executes: bool = True, concerns: Any = _always
) -> Callable[[Run], Check]:
    """Make a function a Check: its name is the function's, its law the first line of the docstring.

    Parameters
    ----------
    kind, since, executes, concerns
        As of :class:`Check`.
    prefix : str or None
        What stands before the name; None: the kind.
    """

    def made(fn: Run) -> Check:
        doc = (fn.__doc__ or "").strip()
        assert doc, f"{fn.__name__} states no law"
        stem = fn.__name__.strip("_").replace("_", "-")
        return Check(
            name=f"{prefix or kind}-{stem}",
            kind=kind,
            law=" ".join(doc.split("\n\n")[0].split()),
            run=fn,
            since=since,
            executes=executes,
            concerns=concerns,
        )

    return made


@frozen(kw_only=True)
class CheckResult:
    """What one check found.

    Parameters
    ----------
    name : str
        The check's.
    component : str
        What was checked: ``"acme/kfac"``, or a plugin's namespace.
    status : {"pass", "fail", "xfail", "xpass", "skip"}
        ``"xfail"``: it failed, and was expected to; ``"xpass"``: it was expected to and did not, which is a failure.
    law : str
        What must hold, in words.
    reason : str
        Why it failed or was skipped; empty where it passed.
    seconds : float
    numbers : dict of str to float
        What was measured.
    case : str
        The label of the case it ran on; empty for the kit's own.
    """

    name: str
    component: str
    status: str
    law: str = ""
    reason: str = ""
    seconds: float = 0.0
    numbers: dict[str, float] = Factory(dict)
    case: str = ""

    @property
    def failed(self) -> bool:
        """Whether this alone makes a run red."""
        return self.status in ("fail", "xpass")

    def __str__(self) -> str:
        where = f"{self.component} ({self.case})" if self.case else self.component
        law = f"\n  law: {self.law}" if self.failed and self.law else ""
        numbers = ", ".join(f"{name} = {value:.4g}" for name, value in self.numbers.items()) if self.failed else ""
        measured = f"\n  numbers: {numbers}" if numbers else ""
        return f"{self.status} {where} {self.name}{': ' if self.reason else ''}{self.reason}{law}{measured}"
