"""The state of an unfinished run: the folder ``checkpoint/`` in the run's own, from which ``--resume`` goes on.

``run.json`` says what was started: the run file's tables, the seeds that were drawn, and what the operators' model and
data were. A finished job is a stored result, ``job-<operator>-<algorithm>/done``; the one at work has the driver's own
checkpoints beside it. All appear whole or not at all, so that any moment is one to go on from.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.config.plain import plain
from curvkit_core.runs.destination import (
    CHECKPOINT,
    LOCK,
    MAY_DIFFER,
    PLAN,
    STARTED,
    Destination,
    folder_kind,
    next_numbered,
)
from curvkit_core.runs.lock import folder_lock

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import RunResult
    from curvkit_core.runs.preparation import Job, Prepared

__all__ = ["RunState", "Started", "can_be_saved", "check_finished", "identities", "opened_state", "read_started"]

SCHEMA = 1
LOG, DONE, FACTS, DRIVER, ROWS = "log.jsonl", "done", "facts.json", "driver", "rows"


@frozen(kw_only=True)
class Started:
    """What a run was started with: ``run.json``.

    Parameters
    ----------
    tables : mapping
        The run file's, settings applied.
    seeds : mapping of str to int
        Those that were drawn, by their place in the run file.
    operators : tuple
        What each operator, its model and its data were, in hashes.
    time : str
        When, as ISO 8601 has it.
    """

    tables: Mapping[str, Any]
    seeds: Mapping[str, int]
    operators: tuple[Any, ...]
    time: str


def read_started(folder: Path, tables: Mapping[str, Any]) -> Started:
    """Return what the unfinished run in a folder was started with, if the run file is still the same.

    Parameters
    ----------
    folder : Path
        The run's folder.
    tables : mapping
        The run file's tables now. Its sections ``budget`` and ``checkpoint`` may have changed.

    Raises
    ------
    ConfigError
        If the record is damaged or of a newer version, or the run file asks for something else.
    """
    path = folder / CHECKPOINT / STARTED
    again = "give --force to start again, or another --out"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found["schema"]
        if schema == SCHEMA:
            started = Started(
                tables=dict(found["tables"]),
                seeds=dict(found["seeds"]),
                operators=tuple(found["operators"]),
                time=str(found["time"]),
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        text = f"{path} is damaged ({type(error).__name__}: {error}): {again}"
        raise _refused(text) from error
    if schema != SCHEMA:
        text = f"{path} has schema {schema!r}, expected {SCHEMA}: a newer curvkit-core wrote it; {again}"
        raise _refused(text)
    lines = _differences(started.tables, _as_json(tables))
    if lines:
        text = f"the unfinished run in {folder} was started otherwise. {_some(lines)}. Mend: {again}"
        raise _refused(text)
    return started


def check_finished(folder: Path, tables: Mapping[str, Any]) -> None:
    """Refuse a finished run whose run file asked for something else.

    Raises
    ------
    ConfigError
        With what differs.
    """
    before = _read_json(folder / PLAN).get("tables", {})
    lines = _differences(before, _as_json(tables))
    if lines:
        text = f"{folder} holds a finished run of another file. {_some(lines)}. Mend: another --out, or --force"
        raise _refused(text)


@contextlib.contextmanager
def opened_state(destination: Destination, prepared: Prepared) -> Iterator[RunState]:
    """Make or take up a run's state, and keep every other run out of its folder until the block ends.

    Parameters
    ----------
    destination : Destination
        Where the run goes, and whether there is one to go on with.
    prepared : Prepared
        Its problem and operators are compared with those the run was started with.

    Yields
    ------
    RunState
        With the folder it lies in, which is another one than `destination` says where a number was taken meanwhile.

    Raises
    ------
    FolderBusyError
        If another run is at work there.
    ConfigError
        If model, data or run file are not those that the run was started with.
    OSError
        If nothing can be written there.
    """
    folder, made = _made_folder(destination)
    path = folder / CHECKPOINT
    path.mkdir(exist_ok=True)
    with folder_lock(path / LOCK):
        state = RunState(path=path, folder=folder, problem=prepared.problem)
        try:
            if destination.resume:
                state._take_up(prepared)
            else:
                state._start(prepared)
            yield state
        finally:
            state._clear_scratch()
            if not state._worth_keeping():
                state.clear()
                for place in made:
                    with contextlib.suppress(OSError):  # not empty: the run is finished, or somebody else's files
                        place.rmdir()


@define(eq=False)
class RunState:
    """The state of a run that is at work; see :func:`opened_state`.

    Parameters
    ----------
    path : Path
        ``checkpoint/``.
    folder : Path
        The run's folder.
    problem : Problem
        Its findings are set to what they were when the last finished job ended.
    """

    path: Path
    folder: Path
    problem: Any
    resumed: bool = field(default=False, init=False)
    _noted: tuple[Path, dict[str, Any]] | None = field(default=None, init=False)
    _identities: list[Any] = field(factory=list, init=False)
    _scratch: list[Path] = field(factory=list, init=False)

    @property
    def num_finished(self) -> int:
        """How many jobs are kept."""
        return sum(1 for _ in self.path.glob(f"job-*/{DONE}"))

    @property
    def log(self) -> Path:
        """Where the log's lines go while the run is at work."""
        return self.path / LOG

    def driver_folder(self, job: Job) -> Path | None:
        """Where the driver keeps a job's checkpoints; None where the algorithm's state, or the data, cannot be told."""
        return self._of(job) / DRIVER if can_be_saved(job, self._identities) else None

    def finished(self, job: Job) -> RunResult | None:
        """Return a job's stored result, if it has one; vectors in parts stay on disk."""
        from curvkit_core.runs.record import load_left_on_disk

        done = self._of(job) / DONE
        if not done.is_dir():
            return None
        try:
            (result,) = load_left_on_disk(done)
        except (OSError, ValueError) as error:
            text = f"{error} Mend: delete {done}, and this job is done again."
            raise _refused(text) from error
        self.problem.history.findings[:] = _read_json(done / FACTS).get("findings", [])
        return result

    def can_take_up(self, job: Job) -> bool:
        """Whether a resumption has a job's result, or a checkpoint of it."""
        return any((self._of(job) / name).is_dir() for name in (DONE, DRIVER))

    def rows_folder(self, job: Job) -> Path:
        """An empty folder for the vectors of a job's result, which the ranks write before the result itself is kept."""
        folder = self._of(job) / ROWS
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped as it wrote
        folder.mkdir(parents=True)
        return folder

    def scratch_folder(self) -> Path:
        """An empty folder of the system's temporary directory, which goes away when the run ends."""
        self._scratch.append(Path(tempfile.mkdtemp(prefix="curvkit-rows-")))
        return self._scratch[-1]

    def keep(self, job: Job, result: RunResult) -> RunResult:
        """Store the result of a finished job, and drop what its driver needed; gives it with its vectors in place."""
        from curvkit_core.results.atomic import atomic_folder
        from curvkit_core.results.store import json_text
        from curvkit_core.runs.record import in_folder, write_results

        done = self._of(job) / DONE
        with atomic_folder(done, replace=True) as temporary:
            write_results([result], temporary)
            facts = {"findings": list(self.problem.history.findings)}
            (temporary / FACTS).write_text(json_text(facts), encoding="utf-8")
        shutil.rmtree(self._of(job) / DRIVER, ignore_errors=True)
        if result.parts is not None:
            shutil.rmtree(result.parts.folder, ignore_errors=True)
        return in_folder([result], done)[0]

    def facts(self, job: Job) -> dict[str, Any]:
        """What was noted of a job that is not finished; empty where nothing was."""
        return _read_json(self._of(job) / FACTS)

    def note_facts(self, job: Job, facts: Mapping[str, Any]) -> None:
        """Note what only products tell (the strategy, the units, the checks' findings), when it is new.

        A run that is taken up after its last product makes none, and could not tell.
        """
        from curvkit_core.results.atomic import write_text
        from curvkit_core.results.store import json_text

        noted = (self._of(job), dict(facts))
        if noted != self._noted:
            self._of(job).mkdir(exist_ok=True)
            write_text(self._of(job) / FACTS, json_text(facts))
            self._noted = noted

    def copy_to(self, folder: Path) -> None:
        """Put this state into another folder as well: by links, which cost nothing, else by copies."""
        from curvkit_core.results.parted_rows import link_or_copy

        # of a job that was stopped the run's own files have the vectors so far; a resumption makes them anew
        left_out = shutil.ignore_patterns(ROWS)
        shutil.copytree(self.path, folder / CHECKPOINT, copy_function=link_or_copy, ignore=left_out)

    def clear(self) -> None:
        """Remove the state: the run is finished, or there is nothing to go on from."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _clear_scratch(self) -> None:
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def _of(self, job: Job) -> Path:
        return self.path / f"job-{job.operator_index}-{job.algorithm_index}"

    def _start(self, prepared: Prepared) -> None:
        from curvkit_core.results.atomic import write_text
        from curvkit_core.results.store import json_text

        self._identities = identities(prepared)
        for entry in self.path.iterdir():  # of a run that gives way
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        record = {
            "schema": SCHEMA,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "run_file": prepared.plan.source,
            "tables": _as_json(prepared.plan.tables),
            "seeds": dict(prepared.plan.seeds),
            "jobs": [job.label for job in prepared.jobs],
            "operators": self._identities,
        }
        write_text(self.path / STARTED, json_text(record))

    def _take_up(self, prepared: Prepared) -> None:
        started = read_started(self.folder, prepared.plan.tables)
        self._identities = identities(prepared)
        lines: list[str] = []
        for operator, there, here in zip(prepared.plan.operators, started.operators, self._identities, strict=True):
            lines += [f"{operator.label}: {line}" for line in _differences(there, here)]
        if lines:
            text = (
                f"the model or the data are not those that the run in {self.folder} was started with. {_some(lines)}. "
                "Mend: restore them, or give --force to start again"
            )
            raise _refused(text)
        for left_over in self.folder.parent.glob(f".{self.folder.name}.tmp-*"):  # by a run that was killed as it wrote
            shutil.rmtree(left_over, ignore_errors=True)
        self.resumed = True

    def _worth_keeping(self) -> bool:
        """Whether there is a result or a checkpoint to go on from."""
        return any((job / name).is_dir() for job in self.path.glob("job-*") for name in (DONE, DRIVER))


def _made_folder(destination: Destination) -> tuple[Path, list[Path]]:
    """Make the run's folder; returns it with the folders that were made for it, innermost first."""
    folder = destination.folder
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    while True:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            if not destination.numbered or folder_kind(folder) == "free":
                return folder, missing
            folder = next_numbered(folder.parent, folder.name.rpartition("-")[0])
            continue
        return folder, [folder, *missing[1:]]


def can_be_saved(job: Job, known: list[Any]) -> bool:
    """Whether the driver can keep checkpoints of a job; `known` is what :func:`identities` gave."""
    from curvkit_core.algorithms.state_codec import StateError, encode_state

    if known[job.operator_index] is None:
        return False
    try:
        encode_state(job.algorithm.component.config.init(job.op.space))
    except StateError:
        return False
    return True


def identities(prepared: Prepared) -> list[Any]:
    """What each operator, its model and its data are. Reads the data once an operator, without the model.

    On several ranks all of them call it together: the hash of the data is over all of theirs.
    """
    from curvkit_core.algorithms.identity import identity

    ops = {job.operator_index: job.op for job in prepared.jobs}
    found: list[Any] = [None] * len(prepared.plan.operators)
    for number, op in ops.items():
        # sparse, nested or quantised data have no hash: such a run goes on by finished jobs alone
        with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):
            found[number] = _as_json(identity(None, op, {})["operator"])
    return found


def _differences(there: Any, here: Any) -> list[str]:
    from curvkit_core.algorithms.identity import differences

    if isinstance(there, Mapping) and isinstance(here, Mapping):
        there, here = ({k: v for k, v in side.items() if k not in MAY_DIFFER} for side in (there, here))
    return differences(_numbered(there), _numbered(here))


def _numbered(value: Any) -> Any:
    """Lists as mappings, so that a difference is told at its place: ``algorithm.0.k``."""
    if isinstance(value, list):
        return {str(i): _numbered(item) for i, item in enumerate(value)}
    return {key: _numbered(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _some(lines: list[str]) -> str:
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(plain(value)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refused(text: str) -> ConfigError:
    return ConfigError([Mistake("", text)], "--resume")
