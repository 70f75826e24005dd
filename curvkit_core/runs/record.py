"""The run folder: ``plan.json``, ``result.json`` with safetensors, ``log.jsonl``, figures; whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from curvkit_core.config import plain
from curvkit_core.runs.destination import PLAN, UNFINISHED, Destination, folder_kind, next_numbered
from curvkit_core.runs.plan import Plan
from curvkit_core.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.backends import VectorSpace
    from curvkit_core.results.store import Reading
    from curvkit_core.runs.outcome import Run, RunResult
    from curvkit_core.runs.preparation import Prepared
    from curvkit_core.runs.run_state import RunState

__all__ = [
    "in_folder",
    "load_left_on_disk",
    "load_run",
    "open_left_on_disk",
    "open_run",
    "plan_record",
    "write_results",
    "write_run",
]

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
    from curvkit_core.runs.report.page import report_html

    facts = {"interrupted": run.interrupted, "stopped": run.stopped}
    if state is not None:
        destination = Destination(folder=state.folder, force=True)
    while True:
        try:
            with atomic_folder(destination.folder, replace=destination.force) as temporary:
                _write_json(temporary / PLAN, run.plan)
                write_results(run.results, temporary, facts)
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


def open_run(folder: str | Path, *, types: Iterable[type] = (), space: VectorSpace | None = None) -> Run:
    """Load a run: its plan, its problem's facts and its results; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    types : iterable of type
        As for :func:`load_run`.
    space : VectorSpace, optional
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
    return _run_in(Path(folder), *_loaded(Path(folder), types, space))


def open_left_on_disk(folder: Path) -> Run:
    """As :func:`open_run`, but vectors in parts stay on disk: what tables and figures show needs none of them.

    Raises
    ------
    FileNotFoundError, ValueError
        As there; a file of vectors that is missing or cut short is told, its contents are not read.
    """
    return _run_in(folder, *_loaded_but_vectors(folder))


def _run_in(folder: Path, document: Mapping[str, Any], results: tuple[RunResult, ...]) -> Run:
    from curvkit_core.runs.outcome import Run

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


def load_run(
    folder: str | Path, *, types: Iterable[type] = (), space: VectorSpace | None = None
) -> tuple[RunResult, ...]:
    """Load the results of a run; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    types : iterable of type
        Result classes beside core's that may be built, as for :func:`curvkit_core.load_result`.
    space : VectorSpace, optional
        An operator's, as for :func:`curvkit_core.load_result`: vectors in parts come as it cuts them, and its ranks
        call together. Those of operators over other parameters stay on disk (:attr:`RunResult.parts`).

    Returns
    -------
    tuple of RunResult
        In the order they ran.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no run, or a damaged one. If `space` is over the parameters of none of its vectors in parts.
    """
    return _loaded(Path(folder), types, space)[1]


def load_left_on_disk(folder: Path) -> tuple[RunResult, ...]:
    """As :func:`load_run`, but vectors in parts stay on disk; their files are there, and as long as they were.

    Raises
    ------
    FileNotFoundError, ValueError
        As there.
    """
    return _loaded_but_vectors(folder)[1]


def _loaded_but_vectors(folder: Path) -> tuple[dict[str, Any], tuple[RunResult, ...]]:
    document, results = _loaded(folder, (), None, lambda parts, name: parts.meta(name))
    for r in results:
        if r.parts is not None:
            r.parts.check_sizes()
    return document, results


def _loaded(
    folder: Path, types: Iterable[type], space: VectorSpace | None, read: Reading | None = None
) -> tuple[dict[str, Any], tuple[RunResult, ...]]:
    from curvkit_core.results.encode import decode
    from curvkit_core.results.store import parts_of, read_stored, result_types
    from curvkit_core.runs.outcome import RunResult

    _refuse_unfinished(folder)
    document, tensors = read_stored(folder, _reading_in(space) if read is None else read, space=space)
    rows = document.get("runs")
    if not isinstance(rows, list):
        msg = f"{folder} holds no run: expected a list 'runs' in result.json. load_result reads a single result."
        raise ValueError(msg)
    parts = dict(parts_of(document, folder))
    if space is not None and parts and not any(own.fits(space) for own in parts.values()):
        next(iter(parts.values())).require(space)
    known = result_types(types)
    found = []
    for i, row in enumerate(rows):
        try:
            rest = {**row, "params": tuple(row["params"])}
            rest["result"] = decode(rest["result"], f"runs.{i}", tensors, known)
            own = parts.get(f"runs.{i}")
            left = own is not None and any(tensors[f"runs.{i}.{name}"].is_meta for name in own.rows)
            found.append(RunResult(**rest, parts=own if left else None))
        except (TypeError, KeyError) as error:
            msg = f"{folder}: entry {i} of 'runs' is damaged: {error}"
            raise ValueError(msg) from error
    return document, tuple(found)


def _reading_in(space: VectorSpace | None) -> Reading:
    from curvkit_core.results.parted_rows import PartedRows

    if space is None:
        return PartedRows.whole
    return lambda parts, name: parts.own(name, space) if parts.fits(space) else parts.meta(name)


def _refuse_unfinished(folder: Path) -> None:
    if folder_kind(folder) == UNFINISHED and not (folder / PLAN).is_file():
        msg = f"{folder} holds a run that is not finished, with no results yet: go on with it by curvkit run --resume."
        raise FileNotFoundError(msg)


def write_results(results: Sequence[RunResult], folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write results into a folder, with `facts` of the run; vectors in parts by links to their files, else by copies.

    Raises
    ------
    OSError
        If it cannot be written, or the elements of vectors could not be when their job ended.
    TypeError
        If a field cannot be stored.
    """
    from curvkit_core.results.encode import encode
    from curvkit_core.results.store import named_parts, stored_document, write_stored

    for r in results:
        if lost := _without_elements(r):
            msg = f"{r.algorithm} on {r.label}: no place took the elements of {', '.join(lost)} when it ended"
            raise OSError(msg)
    tensors: dict[str, Tensor] = {}
    parts = {r.parts_name: (f"runs.{i}", r.parts) for i, r in enumerate(results) if r.parts is not None}
    named = named_parts(parts)
    rows = [
        {
            "operator": r.operator,
            "algorithm": r.algorithm,
            "label": r.label,
            "operator_index": r.operator_index,
            "algorithm_index": r.algorithm_index,
            "params": list(r.params),
            "seconds": r.seconds,
            "result": encode(r.result, f"runs.{i}", tensors, named),
        }
        for i, r in enumerate(results)
    ]
    write_stored(stored_document({"runs": rows, **(facts or {})}, parts), tensors, folder)
    for name, (_, own) in parts.items():
        own.copied_to(folder / name)


def _without_elements(r: RunResult) -> list[str]:
    from curvkit_core.results.parted_rows import with_tensors

    lost: list[str] = []

    def look(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_meta and (r.parts is None or name not in r.parts.rows):
            lost.append(name)
        return tensor

    with_tensors(r.result, look)
    return lost


def in_folder(results: Sequence[RunResult], folder: Path) -> tuple[RunResult, ...]:
    """The results as they are once :func:`write_results` has written them: their vectors in parts are in `folder`."""
    return tuple(
        r if r.parts is None else attrs.evolve(r, parts=attrs.evolve(r.parts, folder=folder / r.parts_name))
        for r in results
    )


def _write_json(path: Path, data: Any) -> None:
    from curvkit_core.results.store import json_text

    path.write_text(json_text(data), encoding="utf-8")
