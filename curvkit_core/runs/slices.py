"""The section ``[landscape]``: the loss along the eigenvectors that a run found, beside their parabolas."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.outcome import RunResult
from curvkit_core.runs.preparation import Job, Prepared
from curvkit_core.runs.progress import Progress
from curvkit_core.runs.ranks import lead, own_rows

if TYPE_CHECKING:
    from curvkit_core.results.types import EigenResult, SliceResult

__all__ = ["slice_with", "slices_of_run"]

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


def slice_with(job: Job, order: Mapping[str, Any], eigen: EigenResult | None = None) -> SliceResult:
    """Compute an operator's slices, all ranks together; rank 0 has the eigenvectors, and the others what it says."""
    import torch

    from curvkit_core.landscape import loss_slice

    curvatures = torch.tensor(order["curvatures"], dtype=torch.float64)
    directions = own_rows(job.op, None if eigen is None else eigen.eigenvectors, len(curvatures))
    return loss_slice(job.op.problem, directions, curvatures=curvatures, points=order["points"])


def _sliced(job: Job, eigen: EigenResult, prepared: Prepared, progress: Progress) -> RunResult:
    options = prepared.plan.landscape
    assert options is not None
    start = time.perf_counter()
    count = min(options.directions, len(eigen.eigenvalues))
    order = {"curvatures": eigen.eigenvalues[:count].tolist(), "points": options.points}
    lead(prepared, slices=prepared.jobs.index(job), **order)
    result = slice_with(job, order, eigen)
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
