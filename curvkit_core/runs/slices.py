"""The section ``[landscape]``: the loss along the eigenvectors that a run found, beside their parabolas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curvkit_core.runs.outcome import RunResult
from curvkit_core.runs.preparation import Job, Prepared
from curvkit_core.runs.progress import Progress

if TYPE_CHECKING:
    from curvkit_core.results.types import EigenResult

__all__ = ["slices_of_run"]

NAME = "core/loss-slice"


def slices_of_run(prepared: Prepared, results: Sequence[RunResult], progress: Progress) -> list[RunResult]:
    """Compute a slice of the loss along the first eigenvectors of each operator that has some.

    Parameters
    ----------
    prepared : Prepared
        Its plan says how many directions and points.
    results : sequence of RunResult
        All of the run's.
    progress : Progress
        Told of each operator.

    Returns
    -------
    list of RunResult
        One an operator with eigenvectors over a problem's parameters; forward passes alone, made anew by a resumption.
    """
    options = prepared.plan.landscape
    if options is None:
        return []
    found = []
    for number in range(len(prepared.plan.operators)):
        job = next((job for job in prepared.jobs if job.operator_index == number), None)
        eigen = _eigen(results, number)
        if job is None or eigen is None:
            continue
        problem = job.op.problem
        if problem is None or problem.parameters.n != job.op.n:
            progress.say(f"no slices of the loss for {job.operator.label}: it is not over the problem's parameters")
            continue
        found.append(_sliced(job, eigen, prepared, progress))
    return found


def _eigen(results: Sequence[RunResult], number: int) -> EigenResult | None:
    from curvkit_core.results.types import EigenResult

    own = (r.result for r in results if r.operator_index == number and isinstance(r.result, EigenResult))
    return next((result for result in own if len(result.eigenvalues)), None)


def _sliced(job: Job, eigen: EigenResult, prepared: Prepared, progress: Progress) -> RunResult:
    from curvkit_core.landscape import loss_slice

    options = prepared.plan.landscape
    assert options is not None
    problem, start = job.op.problem, time.perf_counter()
    count = min(options.directions, len(eigen.eigenvalues))
    result = loss_slice(
        problem,
        eigen.eigenvectors[:count],
        curvatures=eigen.eigenvalues[:count],
        points=options.points,
    )
    seconds = time.perf_counter() - start
    progress.say(f"slices of the loss along {count} eigenvectors of {job.operator.label}: {seconds:.1f} s")
    return RunResult(
        operator=job.operator.component.name,
        algorithm=NAME,
        label=job.operator.label,
        operator_index=job.operator_index,
        algorithm_index=len(prepared.plan.algorithms),
        params=job.operator.params,
        result=result,
        seconds=seconds,
    )
