"""What a run's results are called in its report: told apart where an algorithm ran more than once on an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import RunResult

__all__ = ["distinctions", "job_names"]


def job_names(results: Sequence[RunResult]) -> list[str]:
    """Return ``core/trace on core/ggn``, with ``(method = xtrace)`` where there are several."""
    marks = distinctions(results)
    return [f"{r.algorithm} on {r.label}{mark}" for r, mark in zip(results, marks, strict=True)]


def distinctions(results: Sequence[RunResult]) -> list[str]:
    """Return what tells each result from others of its algorithm and operator; empty where there are none.

    The first option whose values all differ, else all options that do; the number where no option tells.
    """
    marks = []
    for r in results:
        alike = [other for other in results if (other.algorithm, other.label) == (r.algorithm, r.label)]
        told = [_options(other) for other in alike]
        place = next(i for i, other in enumerate(alike) if other is r)
        differing = [key for key in told[place] if len({options.get(key) for options in told}) > 1]
        alone = [key for key in differing if len({options.get(key) for options in told}) == len(alike)]
        chosen = alone[:1] or differing
        words = ", ".join(f"{key} = {told[place][key]}" for key in chosen)
        if len({tuple(options.get(key) for key in chosen) for options in told}) < len(alike):
            words = f"{words}, number {place + 1}".removeprefix(", ")
        marks.append(f" ({words})" if len(alike) > 1 else "")
    return marks


def _options(r: RunResult) -> dict[str, str]:
    options = getattr(getattr(r.result, "info", None), "options", None) or {}
    return {str(key): str(value) for key, value in options.items()}
