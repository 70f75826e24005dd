"""The driver: the only place that multiplies.

It counts products, keeps budgets, refuses products that are not finite, reports progress, and stops cleanly on Ctrl-C
with the best result so far.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypedDict

import attrs
import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.algorithms.protocol import Algorithm, Finishes, Progress, ReportsProgress
from curvkit_core.algorithms.provenance import result_info
from curvkit_core.errors import CurvkitError
from curvkit_core.operators import CurvatureOperator

__all__ = ["DriverOptions", "NonFiniteProductError", "ProgressEvent", "run"]


class NonFiniteProductError(CurvkitError):
    """The operator gave inf or NaN."""


@frozen(kw_only=True)
class ProgressEvent:
    """What `on_progress` is called with after every multiplication.

    `done` and `total` are the algorithm's own count of products (total None: not known), `matvecs` the driver's count,
    `seconds` the time since the start.
    """

    done: int
    total: int | None
    matvecs: int
    seconds: float
    note: str = ""


class DriverOptions(TypedDict, total=False):
    """What every function that drives an algorithm takes beside the algorithm's own options: see :func:`run`."""

    max_rows: int | None
    max_seconds: float | None
    on_progress: Callable[[ProgressEvent], None] | None


def run(
    algorithm: Algorithm,
    op: CurvatureOperator,
    *,
    inputs: Mapping[str, Any] | None = None,
    max_rows: int | None = None,
    max_matvecs: int | None = None,
    max_seconds: float | None = None,
    on_progress: Callable[[ProgressEvent], None] | None = None,
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
        Budget of products; never overspent.
    max_seconds : float or None
        Budget of time: no multiplication is begun that would, at the pace so far, end after it.
    on_progress : callable or None
        Called with a ProgressEvent after every multiplication.

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
    """
    if getattr(algorithm, "needs_symmetric", False) and not op.symmetric:
        msg = f"{type(algorithm).__name__} needs a symmetric operator: {op!r} says it is not."
        raise ValueError(msg)
    if not op.deterministic and not getattr(algorithm, "accepts_stochastic", False):
        msg = (
            f"{type(algorithm).__name__} multiplies one fixed matrix: {op!r} is another one at each product. "
            "Use the operator over all data, or trace(method='hutchinson')."
        )
        raise ValueError(msg)
    for name, value in (("max_rows", max_rows), ("max_matvecs", max_matvecs), ("max_seconds", max_seconds)):
        if value is not None and not value > 0:
            msg = f"{name}={value!r}: expected a positive number, or None."
            raise ValueError(msg)
    space = op.space
    width = max_rows if max_rows is not None else space.comfortable_rows()
    start = time.perf_counter()
    state = algorithm.init(space, **(inputs or {}))
    matvecs, pace, interrupted = 0, 0.0, ""
    with _interrupts() as interrupts:
        while True:
            if interrupts.pending:
                interrupted = "keyboard"
                break
            rows = width if max_matvecs is None else min(width, max_matvecs - matvecs)
            with interrupts.deferred():
                V = algorithm.ask(state, max(rows, 1))
            if V is None:
                break
            interrupted = _budget_spent(rows, time.perf_counter() - start + pace, max_seconds)
            if interrupted:
                break
            if not 0 < V.shape[0] <= rows:
                msg = f"{type(algorithm).__name__}.ask gave {V.shape[0]} rows: expected 1 to {rows}."
                raise ValueError(msg)
            begun = time.perf_counter()
            try:
                AV = op.apply(V)
            except KeyboardInterrupt:
                interrupted = "keyboard"
                break
            matvecs += V.shape[0]
            _check_finite(AV, op, matvecs)
            with interrupts.deferred():
                state = algorithm.tell(space, state, V, AV)
            pace = time.perf_counter() - begun
            if on_progress is not None:
                on_progress(_event(algorithm, state, matvecs, time.perf_counter() - start))
    if isinstance(algorithm, Finishes):
        state = algorithm.finish(space, state)
    result = algorithm.result(space, state)
    if attrs.has(type(result)) and "info" in attrs.fields_dict(type(result)):
        seconds = time.perf_counter() - start
        info = result_info(algorithm, op, result, num_matvecs=matvecs, seconds=seconds, interrupted=interrupted)
        result = attrs.evolve(result, info=info)
    return result


def _budget_spent(rows: int, end: float, max_seconds: float | None) -> str:
    if rows < 1:
        return "matvecs"
    return "seconds" if max_seconds is not None and end > max_seconds else ""


def _event(algorithm: Algorithm, state: Any, matvecs: int, seconds: float) -> ProgressEvent:
    told = algorithm.progress(state) if isinstance(algorithm, ReportsProgress) else Progress(done=matvecs)
    return ProgressEvent(done=told.done, total=told.total, matvecs=matvecs, seconds=seconds, note=told.note)


def _check_finite(AV: Tensor, op: CurvatureOperator, number: int) -> None:
    finite = torch.isfinite(AV)
    if bool(finite.all()):
        return
    first = int((~finite).any(dim=0).nonzero()[0])
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


class _Interrupts:
    """Ctrl-C inside a multiplication ends it at once; while a state changes hands it waits."""

    def __init__(self) -> None:
        self.pending = False
        self._deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._deferred:
            raise KeyboardInterrupt
        self.pending = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Own SIGINT for the run, in the main thread only and only if Python's own handler is in place."""
    interrupts = _Interrupts()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
