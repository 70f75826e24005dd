"""What a check found: a stable code, what was seen, how to mend it; and what becomes of it."""

from __future__ import annotations

import warnings

from attrs import frozen

from curvkit_core.errors import CurvkitError
from curvkit_core.problem.problem import Problem

__all__ = ["Finding", "PreflightError", "PreflightWarning", "report"]


class PreflightError(CurvkitError):
    """A check showed that products of this problem are wrong."""


class PreflightWarning(UserWarning):
    """The same, where the problem asks for ``preflight="warn"``."""


@frozen(kw_only=True)
class Finding:
    """One finding.

    Parameters
    ----------
    code : str
        Stable, for looking up: ``"loss-not-finite"``.
    seen : str
        What was seen, with its numbers.
    mend : str
        What to do.
    """

    code: str
    seen: str
    mend: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.seen} Mend: {self.mend}"


def report(problem: Problem, finding: Finding) -> None:
    """Raise, or warn and remember, as ``problem.preflight`` says."""
    if problem.preflight == "error":
        raise PreflightError(str(finding))
    warnings.warn(str(finding), PreflightWarning, stacklevel=2)
    problem.history.findings.append(str(finding))
