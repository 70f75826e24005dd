"""Where a result comes from, put down by the driver."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from typing import Any

import attrs
import torch

from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import ResultInfo

__all__ = ["result_info"]

_PACKAGES = ("curvkit-core", "torch", "numpy", "transformers", "transformer-lens", "triton")


def result_info(
    algorithm: Any, op: CurvatureOperator, result: Any, *, num_matvecs: int, seconds: float, interrupted: str
) -> ResultInfo:
    """Collect what is known of a run: configuration, operator, data, versions."""
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
        strategy="reverse" if problem is not None else "",
        error_covers=getattr(result, "error_covers", ""),
        converged=None if converged is None else bool(torch.as_tensor(converged).all()),
        interrupted=interrupted,
        parameter_names=problem.parameters.names if problem is not None else (),
        findings=tuple(problem.history.findings) if problem is not None else (),
        versions=dict(_versions()),
    )


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
