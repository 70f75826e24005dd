"""The run folder: ``plan.json``, ``result.json`` with safetensors, ``log.jsonl``, figures; whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvkit_core.config import plain
from curvkit_core.runs.destination import PLAN, UNFINISHED, Destination, folder_kind, next_numbered
from curvkit_core.runs.plan import Plan
from curvkit_core.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.runs.outcome import Run, RunResult
    from curvkit_core.runs.preparation import Prepared
    from curvkit_core.runs.run_state import RunState

__all__ = ["load_run", "open_run", "plan_record", "results_document", "write_run"]

LOG, REPORT = "log.jsonl", "report.html"
SCHEMA = 1
_PACKAGES = ("torch", "numpy", "attrs", "cattrs", "pluggy", "safetensors")


def plan_record(plan: Plan, prepared: Prepared | None = None) -> dict[str, Any]:
    """Return what ``plan.json`` holds: every name, version, option and seed that the run uses.

    Parameters
    ----------
    plan : Plan
        The plan.
    prepared : Prepared, optional
        Adds what is known once the problem is built.

    Returns
    -------
    dict
        Plain values.
    """
    operators = [{**o.component.record(), "params": list(o.params), "label": o.label} for o in plan.operators]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run_file": plan.source,
        "problem": plan.problem.record(),
        "operators": operators,
        "algorithms": [{**a.component.record(), "on": list(a.on)} for a in plan.algorithms],
        "backend": plan.backend.record(),
        "auto": plain(plan.auto),
        "budget": plain(plan.budget),
        "landscape": plain(plan.landscape),
        "auto_notes": list(prepared.notes if prepared is not None else plan.notes),
        "registry": plan.fingerprint,
        "versions": versions(),
        "tables": plain(plan.tables),
        "seeds": dict(plan.seeds),
    }
    if prepared is not None:
        record["kernels"] = dict(prepared.kernels)
        record["problem_facts"] = plain(prepared.problem.describe())
        record["parameter_names"] = list(prepared.problem.parameters.names)
    return record


def versions() -> dict[str, str]:
    """Return the versions of Python, curvkit-core and the packages whose numbers a result depends on."""
    found = {"python": platform.python_version(), "curvkit-core": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # vendored, or run from source without metadata
            continue
    return found


def write_run(
    run: Run,
    destination: Destination,
    log: Iterable[Mapping[str, Any]],
    figures: Callable[[Path], Sequence[str]] = lambda _: (),
    *,
    state: RunState | None = None,
) -> Path:
    """Write a run's folder, whole or not at all.

    Parameters
    ----------
    run : Run
        With its results.
    destination : Destination
        Where to.
    log : iterable of mapping
        The lines of ``log.jsonl``, read last.
    figures : callable
        Draws into the folder it is given.
    state : RunState or None
        The state of the run: its folder gives way to the finished one. Where the run was stopped, the state stays in
        it, to go on from.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from curvkit_core.results.atomic import atomic_folder
    from curvkit_core.results.store import write_stored
    from curvkit_core.runs.report.page import report_html

    rows, tensors = results_document(run.results)
    document = {**rows, "interrupted": run.interrupted, "stopped": run.stopped}
    if state is not None:
        destination = Destination(folder=state.folder, force=True)
    while True:
        try:
            with atomic_folder(destination.folder, replace=destination.force) as temporary:
                _write_json(temporary / PLAN, run.plan)
                write_stored(document, tensors, temporary)
                (temporary / REPORT).write_text(report_html(run), encoding="utf-8")
                figures(temporary)
                if state is not None and run.stopped:
                    state.copy_to(temporary)
                lines = "".join(json.dumps(line, default=str) + "\n" for line in log)
                (temporary / LOG).write_text(lines, encoding="utf-8")
            return destination.folder
        except FileExistsError:
            if not destination.numbered:
                raise
            folder = destination.folder
            stem = folder.name.rpartition("-")[0]
            destination = Destination(folder=next_numbered(folder.parent, stem), numbered=True)


def open_run(folder: str | Path, *, types: Iterable[type] = ()) -> Run:
    """Load a run: its plan, its problem's facts and its results; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    types : iterable of type
        As for :func:`load_run`.

    Returns
    -------
    Run
        As it was written.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no run, or a damaged or newer one.
    """
    from curvkit_core.results.store import read_stored
    from curvkit_core.runs.outcome import Run

    folder = Path(folder)
    results = load_run(folder, types=types)
    document, _ = read_stored(folder)
    plan = _read_plan(folder / PLAN)
    facts = plan.get("problem_facts")
    return Run(
        plan=plan,
        folder=folder,
        problem=facts if isinstance(facts, Mapping) else {},
        results=results,
        stopped=str(document.get("stopped") or ""),
    )


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise ValueError(msg) from error
    schema = plan.get("schema") if isinstance(plan, dict) else None
    if schema != SCHEMA:
        msg = f"{path} has schema {schema!r}: expected {SCHEMA}. A later curvkit may have written it."
        raise ValueError(msg)
    found: dict[str, Any] = plan
    return found


def load_run(folder: str | Path, *, types: Iterable[type] = ()) -> tuple[RunResult, ...]:
    """Load the results of a run; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    types : iterable of type
        Result classes beside core's that may be built, as for :func:`curvkit_core.load_result`.

    Returns
    -------
    tuple of RunResult
        In the order they ran.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no run, or a damaged one.
    """
    from curvkit_core.results.encode import decode
    from curvkit_core.results.store import read_stored, result_types
    from curvkit_core.runs.outcome import RunResult

    _refuse_unfinished(Path(folder))
    document, tensors = read_stored(folder)
    rows = document.get("runs")
    if not isinstance(rows, list):
        msg = f"{folder} holds no run: expected a list 'runs' in result.json. load_result reads a single result."
        raise ValueError(msg)
    known = result_types(types)
    found = []
    for i, row in enumerate(rows):
        try:
            rest = {**row, "params": tuple(row["params"])}
            rest["result"] = decode(rest["result"], f"runs.{i}", tensors, known)
            found.append(RunResult(**rest))
        except (TypeError, KeyError) as error:
            msg = f"{folder}: entry {i} of 'runs' is damaged: {error}"
            raise ValueError(msg) from error
    return tuple(found)


def _refuse_unfinished(folder: Path) -> None:
    if folder_kind(folder) == UNFINISHED and not (folder / PLAN).is_file():
        msg = f"{folder} holds a run that is not finished, with no results yet: go on with it by curvkit run --resume."
        raise FileNotFoundError(msg)


def results_document(results: Sequence[RunResult]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return results as ``result.json`` has them, and their tensors."""
    from curvkit_core.results.encode import encode

    tensors: dict[str, Tensor] = {}
    rows = [
        {
            "operator": r.operator,
            "algorithm": r.algorithm,
            "label": r.label,
            "operator_index": r.operator_index,
            "algorithm_index": r.algorithm_index,
            "params": list(r.params),
            "seconds": r.seconds,
            "result": encode(r.result, f"runs.{i}", tensors),
        }
        for i, r in enumerate(results)
    ]
    return {"schema": SCHEMA, "runs": rows}, tensors


def _write_json(path: Path, data: Any) -> None:
    from curvkit_core.results.store import json_text

    path.write_text(json_text(data), encoding="utf-8")
