"""Running what was prepared: each algorithm on each of its operators, by the driver."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.errors import CurvkitError
from curvkit_core.runs.outcome import KEYBOARD, Run, RunResult
from curvkit_core.runs.preparation import Job, Prepared
from curvkit_core.runs.progress import Progress
from curvkit_core.runs.ranks import APART, lead, whole_result
from curvkit_core.runs.rows_apart import put_apart, writes_apart
from curvkit_core.runs.slices import slices_of_run

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry
    from curvkit_core.runs.run_state import RunState

__all__ = ["Run", "RunResult", "execute"]

PRODUCTS, SECONDS = "products", "seconds"
_SIZES = re.compile(r" \([\d.,]+ MB\)")  # of kept graphs: they depend on what else is kept at that moment


def execute(
    prepared: Prepared, run: Run, registry: Registry, progress: Progress, *, state: RunState | None = None
) -> Run:
    """Run every job that is not finished; on Ctrl-C, or when the plan's budget is spent, stop with what there is.

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
    state : RunState or None
        Where finished jobs are kept, and the one at work saves its checkpoints; None: nowhere.

    Returns
    -------
    Run
        With results.

    Raises
    ------
    ConfigError
        If a product is refused or a component fails in a way that its own text explains.
    OSError
        If a checkpoint cannot be written; what was kept before is whole.
    """
    registry.observers.call_run_started(run)
    results: list[RunResult] = []
    stopped, start = "", time.monotonic()
    try:
        for number, job in enumerate(prepared.jobs, start=1):
            kept = state.finished(job) if state is not None else None
            if kept is not None:
                results.append(kept)
                progress.say(f"[{number}/{len(prepared.jobs)}] {job.label}: finished before")
                continue
            allowed = _Allowance.left(prepared.plan.budget, results, time.monotonic() - start)
            stopped = allowed.spent
            if stopped:
                break
            stopped = _run_job(job, number, prepared, progress, results, state=state, allowed=allowed)
            if stopped:
                break
            if state is not None:
                results[-1] = _kept(state, job, results[-1], progress)
        if not stopped:
            results += slices_of_run(prepared, results, progress)
        lead(prepared, end=True)
    except KeyboardInterrupt:
        stopped = KEYBOARD
    return attrs.evolve(run, results=tuple(results), stopped=stopped)


@frozen(kw_only=True)
class _Allowance:
    """What the plan's budget leaves for the next job; None: as much as it likes."""

    products: int | None
    seconds: float | None

    @classmethod
    def left(cls, budget: Any, results: list[RunResult], seconds: float) -> _Allowance:
        used = sum(_products(r.result) for r in results)
        return cls(
            products=None if budget.products is None else budget.products - used,
            seconds=None if budget.seconds is None else budget.seconds - seconds,
        )

    @property
    def spent(self) -> str:
        if self.products is not None and self.products < 1:
            return PRODUCTS
        return SECONDS if self.seconds is not None and self.seconds <= 0.0 else ""


def _run_job(
    job: Job,
    number: int,
    prepared: Prepared,
    progress: Progress,
    results: list[RunResult],
    *,
    state: RunState | None,
    allowed: _Allowance,
) -> str:
    """Run one job and say what stopped it; its result is safe in `results` before anything else, should Ctrl-C come."""
    from safetensors import SafetensorError

    from curvkit_core.algorithms import run as drive

    start = time.perf_counter()
    made, stopped = False, ""
    options = prepared.plan.checkpoint
    lead(prepared, job=number - 1)
    folder = state.driver_folder(job) if state is not None else None
    driving: dict[str, Any] = {
        "max_matvecs": allowed.products,
        "max_seconds": allowed.seconds,
        "checkpoint": folder,
        "checkpoint_seconds": options.seconds,
        "checkpoint_every": options.products,
        "save_finished": False,  # the run keeps the result itself
    }
    apart = state is not None and writes_apart(job.op)  # without a folder rank 0 gathers what it is to return
    lead(prepared, **{**driving, "checkpoint": None if folder is None else str(folder.absolute()), APART: apart})
    with progress.job(job.label, number, len(prepared.jobs)) as show:

        def on_progress(event: Any) -> None:
            nonlocal made
            made = True
            if state is not None:
                state.note_facts(job, _facts(job.op))
            show(event)

        def on_end(interrupted: str) -> None:
            nonlocal stopped
            stopped = PRODUCTS if interrupted == "matvecs" else interrupted

        try:
            result = drive(
                job.algorithm.component.config,
                job.op,
                on_progress=on_progress,
                on_end=on_end,
                **driving,
            )
            if state is not None and apart:
                folders = (
                    ("the run's folder", partial(state.rows_folder, job)),
                    ("the temporary directory", state.scratch_folder),  # once: they may be a day's work
                )
                said = partial(_said_of, progress, job)
                result, parts = put_apart(result, job.op, folders, partial(lead, prepared), said)
            else:
                result, parts = whole_result(result, job.op), None
        except SafetensorError as error:  # a full disk, as safetensors tells it
            msg = f"{job.label}: its checkpoint cannot be written: {error}"
            raise OSError(msg) from error
        except (CurvkitError, ValueError) as error:
            path = f"{job.operator.component.path}, {job.algorithm.component.path}"
            raise ConfigError([Mistake(path, f"{job.label}: {error}")], prepared.plan.source) from error
        facts = {} if made or state is None else state.facts(job)
        result = _named(result, job, facts)
        seconds = max(time.perf_counter() - start, getattr(getattr(result, "info", None), "seconds", 0.0))
        results.append(
            RunResult(
                operator=job.operator.component.name,
                algorithm=job.algorithm.component.name,
                label=job.operator.label,
                operator_index=job.operator_index,
                algorithm_index=job.algorithm_index,
                params=job.operator.params,
                result=result,
                seconds=seconds,
                parts=parts,
            )
        )
    return stopped


def _kept(state: RunState, job: Job, result: RunResult, progress: Progress) -> RunResult:
    """Store a finished job; where that fails the run goes on, for the numbers are there and the disk may not matter."""
    try:
        return state.keep(job, result)
    except (OSError, TypeError, ValueError) as error:
        progress.say(f"{job.label}: its result cannot be kept for a resumption: {error}")
        return result


def _said_of(progress: Progress, job: Job, text: str) -> None:
    progress.say(f"{job.label}: {text}")


def _facts(op: Any) -> dict[str, Any]:
    """What only products tell, as the result's record has it."""
    problem = op.problem
    return {
        "strategy": _SIZES.sub("", str(getattr(op, "strategy", ""))),
        "units": problem.history.units if problem is not None else None,
        "findings": list(problem.history.findings) if problem is not None else [],
    }


def _named(result: Any, job: Job, facts: Mapping[str, Any]) -> Any:
    """Put the names in the registry into the result's own record, and `facts` of products made before a resumption."""
    info = getattr(result, "info", None)
    if not attrs.has(type(result)) or info is None:
        return result
    names = {"operator": job.operator.component.name, "algorithm": job.algorithm.component.name}
    told = {"strategy": _SIZES.sub("", info.strategy), "units": info.units, "findings": info.findings, **facts}
    told["findings"] = tuple(dict.fromkeys((*told["findings"], *info.findings)))
    return attrs.evolve(result, info=attrs.evolve(info, **names, **told))


def _products(result: Any) -> int:
    info = getattr(result, "info", None)
    found = getattr(info, "num_matvecs", None) or getattr(result, "num_matvecs", 0)
    return found if isinstance(found, int) else 0
