"""The run folder: ``plan.json``, ``result.json`` with safetensors, ``log.jsonl``, figures; whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from curvkit_core.config import ConfigError, Mistake, plain
from curvkit_core.runs.plan import Plan
from curvkit_core.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.runs.execution import Run, RunResult
    from curvkit_core.runs.preparation import Prepared

__all__ = ["Destination", "load_run", "plan_record", "write_run"]

PLAN, LOG = "plan.json", "log.jsonl"
SCHEMA = 1
_PACKAGES = ("torch", "numpy", "attrs", "cattrs", "pluggy", "safetensors")


@frozen(kw_only=True)
class Destination:
    """Where a run's files go.

    Parameters
    ----------
    folder : Path
        The folder, which does not exist yet, is empty, or gives way.
    numbered : bool
        Whether the name was made here, ``runs/digits-3``: if somebody takes it meanwhile, the next one will do.
    force : bool
        Whether a run that is there already gives way.
    """

    folder: Path
    numbered: bool = False
    force: bool = False

    @classmethod
    def choose(cls, run_file: str | Path, out: str | Path | None, *, force: bool = False) -> Destination:
        """Return the folder that ``--out`` names, or the next ``runs/<stem>-<number>``.

        Raises
        ------
        ConfigError
            If the folder holds a run and `force` is not set, or holds anything else.
        """
        numbered = out is None
        folder = Path(out) if out is not None else _next_numbered(Path("runs"), Path(run_file).stem or "run")
        objection = _objection(folder, str(folder if out is None else out), force=force)
        if objection:
            raise ConfigError([Mistake("", objection)], "--out")
        return cls(folder=folder, numbered=numbered, force=force and not numbered)


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
        "auto_notes": list(prepared.notes if prepared is not None else plan.notes),
        "registry": plan.fingerprint,
        "versions": versions(),
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

    document, tensors = _document(run)
    while True:
        try:
            with atomic_folder(destination.folder, replace=destination.force) as temporary:
                _write_json(temporary / PLAN, run.plan)
                write_stored(document, tensors, temporary)
                figures(temporary)
                lines = "".join(json.dumps(line, default=str) + "\n" for line in log)
                (temporary / LOG).write_text(lines, encoding="utf-8")
            return destination.folder
        except FileExistsError:
            if not destination.numbered:
                raise
            folder = destination.folder
            stem = folder.name.rpartition("-")[0]
            destination = Destination(folder=_next_numbered(folder.parent, stem), numbered=True)


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
    from curvkit_core.runs.execution import RunResult

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


def _document(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
        for i, r in enumerate(run.results)
    ]
    return {"schema": SCHEMA, "runs": rows, "interrupted": run.interrupted}, tensors


def _write_json(path: Path, data: Any) -> None:
    from curvkit_core.results.store import json_text

    path.write_text(json_text(data), encoding="utf-8")


def _holds_run(folder: Path) -> bool:
    try:
        return "schema" in json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _next_numbered(parent: Path, stem: str) -> Path:
    prefix = f"{stem}-"
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    endings = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return parent / f"{prefix}{max((int(e) for e in endings if e.isdecimal()), default=0) + 1}"


def _objection(folder: Path, name: str, *, force: bool) -> str:
    """Return why a run may not be written there, or an empty string."""
    if not name.strip() or not folder.name or folder.name == "..":
        return f"expected a new folder's name, got {name!r}"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return f"{name!r} exists and is no folder: choose another name"
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        return f"{name!r} cannot be made: {str(above)!r} is no folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{name!r} cannot be made: {str(above)!r} is not writable"
    if not folder.is_dir() or not any(folder.iterdir()):
        return ""
    if not _holds_run(folder):
        return f"{name!r} holds files that are no run: choose another name"
    return "" if force else f"{name!r} holds a run already: choose another name, or give --force"
