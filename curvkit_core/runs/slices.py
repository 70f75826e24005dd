"""The section ``[landscape]``: the loss along the eigenvectors that a run found, beside their parabolas."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.runs.outcome import RunResult
from curvkit_core.runs.preparation import Job, Prepared
from curvkit_core.runs.progress import Progress
from curvkit_core.runs.ranks import lead, own_rows

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.results.types import EigenResult, SliceResult

__all__ = ["slice_with", "slices_of_run"]

NAME = "core/loss-slice"
PARTS = "parts"  # in an order: where eigenvectors lie in parts


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
        pairs = _eigenpairs(results, number)
        if job is None or pairs is None:
            continue
        problem = job.op.problem
        if problem is None or problem.parameters.n != job.op.n:
            progress.say(f"no slices of the loss for {job.operator.label}: it is not over the problem's parameters")
            continue
        if pairs.parts is None and pairs.result.eigenvectors.is_meta:
            progress.say(f"no slices of the loss for {job.operator.label}: its eigenvectors could not be written")
            continue
        found.append(_sliced(job, pairs, prepared, progress))
    return found


def _eigenpairs(results: Sequence[RunResult], number: int) -> RunResult | None:
    from curvkit_core.results.types import EigenResult

    own = (r for r in results if r.operator_index == number and isinstance(r.result, EigenResult))
    return next((r for r in own if len(r.result.eigenvalues)), None)


def slice_with(job: Job, order: Mapping[str, Any], eigen: EigenResult | None = None) -> SliceResult:
    """Compute an operator's slices, all ranks together.

    The eigenvectors are where the order says, and each rank reads its part; or rank 0 has them, and sends them.
    """
    import torch

    from curvkit_core.landscape import loss_slice

    curvatures = torch.tensor(order["curvatures"], dtype=torch.float64)
    if PARTS in order:
        directions = _read(job, order)[: len(curvatures)]
    else:
        directions = own_rows(job.op, None if eigen is None else eigen.eigenvectors, len(curvatures))
    return loss_slice(job.op.problem, directions, curvatures=curvatures, points=order["points"])


def _read(job: Job, order: Mapping[str, Any]) -> Tensor:
    from curvkit_core.results.parted_rows import PartedRows

    space = job.op.space
    try:
        return PartedRows.of_record(Path(order["folder"]), order[PARTS]).own("eigenvectors", space).to(space.device)
    except ValueError as error:
        text = f"the eigenvectors of {job.operator.label} cannot be read again: {error}"
        raise ConfigError([Mistake("landscape", text)], order["folder"]) from error


def _sliced(job: Job, pairs: RunResult, prepared: Prepared, progress: Progress) -> RunResult:
    options, eigen, parts = prepared.plan.landscape, pairs.result, pairs.parts
    assert options is not None
    start = time.perf_counter()
    count = min(options.directions, len(eigen.eigenvalues))
    order: dict[str, Any] = {"curvatures": eigen.eigenvalues[:count].tolist(), "points": options.points}
    if parts is not None:
        order |= {"folder": str(parts.folder.absolute()), PARTS: parts.record()}
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
