"""What a check found: a stable code, what was seen, how to mend it; and what becomes of it."""

from __future__ import annotations

import warnings

from attrs import field, frozen, validators

from curvkit_core.errors import CurvkitError
from curvkit_core.problem.problem import Problem

__all__ = ["CODES", "Finding", "PreflightError", "PreflightWarning", "note", "remember", "report"]

#: Every code there is, each with its section in docs/preflight.md.
CODES = (
    "parameter-captured",
    "forward-not-repeatable",
    "loss-not-finite",
    "product-not-finite",
    "loader-changed",
    "batchnorm-train-microbatch",
    "product-disagrees",
    "transpose-disagrees",
    "loss-curvature-disagrees",
    "operator-not-symmetric",
)


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
        Stable, for looking up: one of :data:`CODES`.
    seen : str
        What was seen, with its numbers.
    mend : str
        What to do.
    """

    code: str = field(validator=validators.in_(CODES))
    seen: str
    mend: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.seen} Mend: {self.mend}"


def report(problem: Problem, finding: Finding) -> None:
    """Shown wrong: raise, or warn and remember, as ``problem.preflight`` says."""
    if problem.preflight == "error":
        raise PreflightError(str(finding))
    warnings.warn(str(finding), PreflightWarning, stacklevel=2)
    remember(problem, str(finding))


def note(problem: Problem, code: str, seen: str) -> None:
    """Cannot be told: remember it for the results' ``info.findings``, once; nothing is blocked."""
    remember(problem, f"[{code}: inconclusive] {seen}")


def remember(problem: Problem, text: str) -> None:
    """Say a thing once in the results' ``info.findings``."""
    if text not in problem.history.findings:
        problem.history.findings.append(text)
