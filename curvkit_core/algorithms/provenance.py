"""Where a result comes from, put down by the driver."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from typing import Any

import attrs
import torch

from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.combined import CombinedResult
from curvkit_core.results.types import ResultInfo

__all__ = ["result_info", "versions", "with_info"]

_PACKAGES = ("curvkit-core", "torch", "numpy", "transformers", "transformer-lens", "triton")


def with_info(algorithm: Any, op: CurvatureOperator, result: Any, **driven: Any) -> Any:
    """The result with its record; of a combined one, each part with a record of its own.

    `driven` is what the driver knows: see :func:`result_info`. A part's own count of products goes into its record.
    """
    if not attrs.has(type(result)) or "info" not in attrs.fields_dict(type(result)):
        return result
    if isinstance(result, CombinedResult):
        parts = [
            None if part is None else with_info(own, op, part, **{**driven, "num_matvecs": part.num_matvecs})
            for own, part in zip(algorithm.algorithms, result.results, strict=True)
        ]
        result = attrs.evolve(result, results=tuple(parts))
    return attrs.evolve(result, info=result_info(algorithm, op, result, **driven))


def result_info(
    algorithm: Any,
    op: CurvatureOperator,
    result: Any,
    *,
    num_matvecs: int,
    seconds: float,
    interrupted: str,
    notes: tuple[str, ...] = (),
) -> ResultInfo:
    """Collect what is known of a run: configuration, operator, data, versions; `notes` join the findings."""
    problem = op.problem
    options = attrs.asdict(algorithm) if attrs.has(type(algorithm)) else {}
    converged = getattr(result, "converged", None)
    return ResultInfo(
        operator=type(op).__name__,
        algorithm=type(algorithm).__name__,
        options=options,
        num_matvecs=num_matvecs,
        seconds=seconds,
        seed=getattr(result, "seed", options.get("seed")),
        dtype=str(op.dtype).removeprefix("torch."),
        device=str(op.device),
        n=op.n,
        weighting=problem.weighting if problem is not None else "",
        units=problem.history.units if problem is not None else None,
        strategy=str(getattr(op, "strategy", "")),
        error_covers=getattr(result, "error_covers", ""),
        converged=None if converged is None else bool(torch.as_tensor(converged).all()),
        interrupted=interrupted,
        parameter_names=problem.parameters.names if problem is not None else (),
        findings=(*(problem.history.findings if problem is not None else ()), *notes),
        versions=dict(versions()),
    )


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
