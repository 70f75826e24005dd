"""The driver: the only place that multiplies.

It counts products, keeps budgets, refuses products that are not finite, reports progress, saves checkpoints and takes
them up again, and stops cleanly on Ctrl-C with the best result so far.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from attrs import define, frozen
from torch import Tensor

from curvkit_core.algorithms.checkpoint import CheckpointError, CheckpointFolder, SavedRun
from curvkit_core.algorithms.identity import circumstances, differences, identity
from curvkit_core.algorithms.interrupts import interrupts
from curvkit_core.algorithms.protocol import Algorithm, Finishes, HasRoom, Progress, ReportsProgress
from curvkit_core.algorithms.provenance import with_info
from curvkit_core.checks.finite_values import all_finite
from curvkit_core.errors import CurvkitError
from curvkit_core.operators import CurvatureOperator

__all__ = ["DriverOptions", "NonFiniteProductError", "ProgressEvent", "run"]

_log = logging.getLogger("curvkit")


class NonFiniteProductError(CurvkitError):
    """The operator gave inf or NaN."""


@frozen(kw_only=True)
class ProgressEvent:
    """What `on_progress` is called with after every multiplication.

    `done` and `total` are the algorithm's own count of products (total None: not known), `matvecs` the driver's count,
    `seconds` the time since the start, `seconds_left` an estimate of what is to come, None where the end is not known.
    """

    done: int
    total: int | None
    matvecs: int
    seconds: float
    note: str = ""
    seconds_left: float | None = None


class DriverOptions(TypedDict, total=False):
    """What every function that drives an algorithm takes beside the algorithm's own options: see :func:`run`."""

    max_rows: int | None
    max_seconds: float | None
    checkpoint: str | Path | None
    checkpoint_every: int | None
    checkpoint_seconds: float
    resume: bool
    on_progress: Callable[[ProgressEvent], None] | None


def run(
    algorithm: Algorithm,
    op: CurvatureOperator,
    *,
    inputs: Mapping[str, Any] | None = None,
    max_rows: int | None = None,
    max_matvecs: int | None = None,
    max_seconds: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = True,
    save_finished: bool = True,
    on_progress: Callable[[ProgressEvent], None] | None = None,
    on_end: Callable[[str], None] | None = None,
) -> Any:
    """Drive `algorithm` on `op` until it is done or a budget is spent; give its result.

    Parameters
    ----------
    algorithm : Algorithm
    op : CurvatureOperator
    inputs : mapping or None
        Tensors for the algorithm's ``init``: start vectors, right-hand sides.
    max_rows : int or None
        The most vectors multiplied at once; None: as many as fit into 256 MiB, at most 16.
    max_matvecs : int or None
        Budget of products, those before a resumption included; never overspent.
    max_seconds : float or None
        Budget of time of this call: no multiplication is begun that would, at the pace so far, end after it.
    checkpoint : str, Path or None
        A folder for checkpoints, made where it is not there. Each is whole or not there at all, and the one before it
        stays; a save costs the state, and of a Krylov basis what was appended since. One is left at the end as well,
        also after Ctrl-C or a spent budget.
    checkpoint_every : int or None
        Save after so many products ...
    checkpoint_seconds : float
        ... or so many seconds, whichever comes first; after a save that took longer than a second, nine times as long
        as that at least, so that saving takes a tenth of the time at most.
    resume : bool
        Go on from the folder's newest whole checkpoint, if it has one: the result is bit for bit that of a run that was
        never interrupted, on the same device with the same number of threads and strategy (where these differ, a
        warning and the result's findings say so). False: a folder with a checkpoint is refused.
    save_finished : bool
        Leave a checkpoint of a run that is done, too, so that a second call gives its result at once. False where the
        result is kept by other means.
    on_progress : callable or None
        Called with a ProgressEvent after every multiplication.
    on_end : callable or None
        Called at the end with what interrupted the run: ``""``, ``"keyboard"``, ``"matvecs"`` or ``"seconds"``. It is
        for whoever drives algorithms whose results have no ``info``.

    Returns
    -------
    object
        The algorithm's result; where it has a field ``info``, filled with a :class:`ResultInfo` whose ``interrupted``
        says whether a budget or Ctrl-C ended the run.

    Raises
    ------
    ValueError
        If the algorithm needs a symmetric operator and `op` is none, or its configuration does not fit `op`.
    NonFiniteProductError
        If a product holds inf or NaN.
    CheckpointError
        If the folder's checkpoint is of another algorithm, operator, model or data, of a newer version, or damaged.
    """
    _check_fit(algorithm, op)
    numbers = {
        "max_rows": max_rows,
        "max_matvecs": max_matvecs,
        "max_seconds": max_seconds,
        "checkpoint_every": checkpoint_every,
        "checkpoint_seconds": checkpoint_seconds,
    }
    for name, value in numbers.items():
        if value is not None and not value > 0:
            msg = f"{name}={value!r}: expected a positive number, or None."
            raise ValueError(msg)
    space = op.space
    saver: _Saver | None = None
    saved: SavedRun | None = None
    if checkpoint is not None:
        folder = CheckpointFolder(Path(checkpoint), identity(algorithm, op, inputs or {}))
        saver = _Saver(folder, op, checkpoint_every, checkpoint_seconds)
        saved = saver.load(algorithm, resume=resume)
    start = time.perf_counter()
    state = algorithm.init(space, **(inputs or {})) if saved is None else saved.state
    matvecs, before = (0, 0.0) if saved is None else (saved.matvecs, saved.seconds)
    width = max_rows if max_rows is not None else space.comfortable_rows() if saved is None else saved.width
    made, pace, interrupted, finished = 0, 0.0, "", False
    with interrupts() as pending:
        while True:
            if space.agree(int(pending.pending)):
                interrupted = "keyboard"
                break
            rows = width if max_matvecs is None else min(width, max_matvecs - matvecs)
            with pending.deferred():
                V = algorithm.ask(state, max(rows, 1))
            if V is None:
                finished = True
                break
            if rows < 1:
                interrupted = "matvecs"
                break
            if max_seconds is not None and space.agree(int(time.perf_counter() - start + pace > max_seconds)):
                interrupted = "seconds"
                break
            if not 0 < V.shape[0] <= rows:
                msg = f"{type(algorithm).__name__}.ask gave {V.shape[0]} rows: expected 1 to {rows}."
                raise ValueError(msg)
            begun = time.perf_counter()
            try:
                room = algorithm.room(space, state, V) if isinstance(algorithm, HasRoom) else None
                AV = op.apply(V, out=room)
            except KeyboardInterrupt:
                interrupted = "keyboard"
                break
            if room is None and AV.untyped_storage().data_ptr() == V.untyped_storage().data_ptr():
                AV = AV.clone()  # an identity: the algorithm may overwrite its products, not its vectors
            matvecs, made = matvecs + V.shape[0], made + V.shape[0]
            _check_finite(AV, op, matvecs)
            with pending.deferred():
                state = algorithm.tell(space, state, V, AV)
                del V, AV, room
                if saver is not None:
                    saver.after_product(state, matvecs, before + time.perf_counter() - start, width)
            pace = time.perf_counter() - begun
            if on_progress is not None:
                seconds = time.perf_counter() - start
                on_progress(_event(algorithm, state, matvecs, seconds, seconds / made))
        with pending.deferred():
            seconds = before + time.perf_counter() - start
            if saver is not None and (save_finished or not finished):
                saver.at_end(state, matvecs, seconds, width)
            if isinstance(algorithm, Finishes):
                state = algorithm.finish(space, state)
            result = algorithm.result(space, state)
            if on_end is not None:
                on_end(interrupted)
    notes = saver.notes if saver is not None else ()
    return with_info(algorithm, op, result, num_matvecs=matvecs, seconds=seconds, interrupted=interrupted, notes=notes)


_PAUSES = 9.0  # a save of a basis of gigabytes takes as long as many products


@define(eq=False)
class _Saver:
    """When to save, and what was found on resuming."""

    folder: CheckpointFolder
    op: CurvatureOperator
    every: int | None
    seconds: float
    notes: tuple[str, ...] = ()
    _resumed: SavedRun | None = None
    _saved_at: int = -1
    _saved_when: float = 0.0
    _pause: float = 0.0

    def load(self, algorithm: Algorithm, *, resume: bool) -> SavedRun | None:
        """The run to go on with, if there is one."""
        if not resume and self.folder.manifests():
            msg = (
                f"{self.folder.path} holds a checkpoint, and resume=False: nothing was done. "
                "Pass resume=True to go on from it, or another folder."
            )
            raise CheckpointError(msg)
        self._resumed = self.folder.load(algorithm, self.op.space)
        self._saved_when = time.perf_counter()
        if self._resumed is not None:
            self._saved_at = self._resumed.matvecs
            _log.info("resumed from %s after %d products", self.folder.path, self._resumed.matvecs)
        return self._resumed

    def after_product(self, state: Any, matvecs: int, seconds: float, width: int) -> None:
        """Save if it is time; after a resumption's first product compare the circumstances."""
        if self._resumed is not None:
            lines = differences(dict(self._resumed.circumstances), circumstances(self.op))
            self.notes = tuple(f"resumed elsewhere, so not bit for bit: {line}" for line in lines)
            for note in self.notes:
                _log.warning("%s", note)
            self._resumed = None
        due = self.every is not None and matvecs - max(self._saved_at, 0) >= self.every
        if self.op.space.agree(int(due or time.perf_counter() - self._saved_when >= max(self.seconds, self._pause))):
            self._save(state, matvecs, seconds, width)

    def at_end(self, state: Any, matvecs: int, seconds: float, width: int) -> None:
        """Save what there is, unless it is saved already."""
        if matvecs != self._saved_at:
            self._save(state, matvecs, seconds, width)

    def _save(self, state: Any, matvecs: int, seconds: float, width: int) -> None:
        now = SavedRun(state=state, matvecs=matvecs, seconds=seconds, width=width, circumstances=circumstances(self.op))
        begun = time.perf_counter()
        self.folder.save(now, self.op.space)
        self._saved_at, self._saved_when = matvecs, time.perf_counter()
        took = self._saved_when - begun
        self._pause = _PAUSES * took if took > 1.0 else 0.0


def _check_fit(algorithm: Algorithm, op: CurvatureOperator) -> None:
    if getattr(algorithm, "needs_symmetric", False) and not op.symmetric:
        msg = f"{type(algorithm).__name__} needs a symmetric operator: {op!r} says it is not."
        raise ValueError(msg)
    if not op.deterministic and not getattr(algorithm, "accepts_stochastic", False):
        msg = (
            f"{type(algorithm).__name__} multiplies one fixed matrix: {op!r} is another one at each product. "
            "Use the operator over all data, or trace(method='hutchinson')."
        )
        raise ValueError(msg)


def _event(algorithm: Algorithm, state: Any, matvecs: int, seconds: float, pace: float) -> ProgressEvent:
    told = algorithm.progress(state) if isinstance(algorithm, ReportsProgress) else Progress(done=matvecs)
    left = None if told.total is None else pace * max(told.total - told.done, 0)
    return ProgressEvent(
        done=told.done, total=told.total, matvecs=matvecs, seconds=seconds, note=told.note, seconds_left=left
    )


def _check_finite(AV: Tensor, op: CurvatureOperator, number: int) -> None:
    if all_finite(AV):
        return
    first = int((~torch.isfinite(AV)).any(dim=0).nonzero()[0])
    where = f"element {first}"
    if op.problem is not None:
        entries = op.problem.parameters.entries
        if op.n == op.problem.parameters.n:
            where = next(f"parameter {e.name!r}" for e in entries if e.place.start <= first < e.place.stop)
    msg = (
        f"product {number} of {op!r} is not finite, first in {where}. "
        "Mend: look for inf or NaN in the data, for a loss without a second derivative there, or for "
        "overflow in float16."
    )
    raise NonFiniteProductError(msg)
