"""Running what was prepared: each algorithm on each of its operators, by the driver."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.errors import CurvkitError
from curvkit_core.runs.preparation import Job, Prepared
from curvkit_core.runs.progress import Progress

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry

__all__ = ["Run", "RunResult", "execute"]


@frozen(kw_only=True, eq=False)
class RunResult:
    """What one algorithm found for one operator.

    Parameters
    ----------
    operator, algorithm : str
        Names in the registry.
    label : str
        The operator's name in this run: with its parameters' globs, and numbered where two are alike.
    operator_index, algorithm_index : int
        Places in the run file.
    params : tuple of str
        The globs that restrict the operator; empty for all of the problem's parameters.
    result : object
        The algorithm's.
    seconds : float
        Wall time.
    """

    operator: str
    algorithm: str
    label: str
    operator_index: int
    algorithm_index: int
    params: tuple[str, ...] = ()
    result: Any
    seconds: float


@frozen(kw_only=True, eq=False)
class Run:
    """A run, as the observers ``curvkit_run_started`` and ``curvkit_run_finished`` see it.

    Parameters
    ----------
    plan : mapping
        What ``plan.json`` holds.
    folder : Path
        Where the run's files are; not there before the end.
    problem : mapping
        Model, size, data, weighting.
    results : tuple of RunResult
        Empty at the start.
    interrupted : bool
        Whether Ctrl-C ended it; the results are those so far.
    """

    plan: Mapping[str, Any]
    folder: Path
    problem: Mapping[str, Any]
    results: tuple[RunResult, ...] = ()
    interrupted: bool = False


def execute(prepared: Prepared, run: Run, registry: Registry, progress: Progress) -> Run:
    """Run every job; on Ctrl-C stop with what there is.

    Parameters
    ----------
    prepared : Prepared
        From :func:`prepare`.
    run : Run
        With no results yet.
    registry : Registry
        Its observers are told of the start.
    progress : Progress
        Told of every step.

    Returns
    -------
    Run
        With results.

    Raises
    ------
    ConfigError
        If a product is refused or a component fails in a way that its own text explains.
    """
    registry.observers.call_run_started(run)
    results: list[RunResult] = []
    interrupted = False
    try:
        for job in prepared.jobs:
            _run_job(job, prepared, progress, results)
            interrupted = _stopped(results[-1].result)
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    return attrs.evolve(run, results=tuple(results), interrupted=interrupted)


def _run_job(job: Job, prepared: Prepared, progress: Progress, results: list[RunResult]) -> None:
    """Run one job; its result is safe in `results` before anything else is done, should Ctrl-C come then."""
    from curvkit_core.algorithms import run as drive

    start = time.perf_counter()
    with progress.job(job.label, prepared.jobs.index(job) + 1, len(prepared.jobs)) as on_progress:
        try:
            result = drive(job.algorithm.component.config, job.op, on_progress=on_progress)
        except (CurvkitError, ValueError) as error:
            path = f"{job.operator.component.path}, {job.algorithm.component.path}"
            raise ConfigError([Mistake(path, f"{job.label}: {error}")], prepared.plan.source) from error
        results.append(
            RunResult(
                operator=job.operator.component.name,
                algorithm=job.algorithm.component.name,
                label=job.operator.label,
                operator_index=job.operator_index,
                algorithm_index=job.algorithm_index,
                params=job.operator.params,
                result=_named(result, job),
                seconds=time.perf_counter() - start,
            )
        )


def _named(result: Any, job: Job) -> Any:
    """Put the names in the registry into the result's own record."""
    info = getattr(result, "info", None)
    if not attrs.has(type(result)) or info is None:
        return result
    names = {"operator": job.operator.component.name, "algorithm": job.algorithm.component.name}
    return attrs.evolve(result, info=attrs.evolve(info, **names))


def _stopped(result: Any) -> bool:
    return getattr(getattr(result, "info", None), "interrupted", "") == "keyboard"
