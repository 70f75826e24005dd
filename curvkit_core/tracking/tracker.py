"""Following curvature through training: the top eigenpairs, started from those found before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from curvkit_core.algorithms import fresh_seed, lobpcg, trace
from curvkit_core.landscape import loss_and_gradient
from curvkit_core.operators import CurvatureOperator, GGNOperator, HessianOperator
from curvkit_core.problem import Problem
from curvkit_core.tracking.log_files import save_rows
from curvkit_core.tracking.row import TrackerRow

__all__ = ["CurvatureTracker"]

LearningRate = float | Sequence[float] | Optimizer | None

_KINDS: dict[str, Callable[[Problem], CurvatureOperator]] = {"hessian": HessianOperator, "ggn": GGNOperator}


class CurvatureTracker:
    r"""Measures the curvature of a model while it is trained: call it at every step, it works at every `every`-th.

    Parameters
    ----------
    problem : Problem or CurvatureOperator
        The model in training, the data to measure on (fixed batches, not the optimizer's) and the loss; or an operator
        over such a problem. The model is read, never written.
    kind : {"hessian", "ggn"}
        The operator made of a problem.
    k : int, at least 1
        Eigenpairs followed, the largest.
    every : int, at least 1
        Steps between two measurements.
    tol : float
        Relative residual of an eigenpair. What training changes between two measurements is far above 1e-3.
    max_matvecs : int
        Products for the eigenpairs of one measurement, at most.
    trace_matvecs : int or None
        Products for the trace (Hutch++), at least 6; None: no trace.
    seed : int or None
        Of the first start and of the trace's probes, which are the same at every step, so that a change is not theirs.
        None draws one.
    on_row : callable or None
        Called with each new row: a logger's method.

    Raises
    ------
    TypeError, ValueError
        If `problem` is nothing of the kind or an option is out of range.

    Notes
    -----
    Eigenvectors of the last measurement start the next one (block iteration, LOBPCG), with as many random rows as the
    block has room for, so that a new direction of large curvature is found. A measurement costs one gradient, the
    products, and 6 (k + 2) vectors of memory.

    Examples
    --------
    >>> import torch
    >>> from curvkit_core import MSELoss, Problem
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
    >>> tracker = CurvatureTracker(Problem(model, [(x, y)], MSELoss()), every=5)
    >>> for step in range(10):
    ...     _ = tracker(step, learning_rate=0.1)
    >>> [row.step for row in tracker.rows], round(tracker.rows[-1].sharpness, 4)
    ([0, 5], 4.0)
    """

    def __init__(
        self,
        problem: Problem | CurvatureOperator,
        *,
        kind: str = "hessian",
        k: int = 1,
        every: int = 100,
        tol: float = 1e-3,
        max_matvecs: int = 200,
        trace_matvecs: int | None = None,
        seed: int | None = None,
        on_row: Callable[[TrackerRow], Any] | None = None,
    ) -> None:
        if kind not in _KINDS:
            msg = f"kind={kind!r} is unknown: expected one of {', '.join(map(repr, _KINDS))}, or pass an operator."
            raise ValueError(msg)
        for name, value, least in (("k", k, 1), ("every", every, 1), ("max_matvecs", max_matvecs, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                msg = f"{name}={value!r} is out of range: expected an integer, at least {least}."
                raise ValueError(msg)
        if not tol > 0.0:
            msg = f"tol={tol!r} is out of range: expected a positive number."
            raise ValueError(msg)
        if trace_matvecs is not None and (not isinstance(trace_matvecs, int) or trace_matvecs < 6):
            msg = f"trace_matvecs={trace_matvecs!r} is out of range: expected an integer, at least 6, or None."
            raise ValueError(msg)
        self.op = problem if isinstance(problem, CurvatureOperator) else _operator(problem, kind)
        if not isinstance(self.op.problem, Problem) or self.op.n != self.op.problem.parameters.n:
            msg = f"{self.op!r} is no operator over a problem's parameters: there is no loss and gradient to follow."
            raise TypeError(msg)
        self.problem: Problem = self.op.problem
        self.k = min(k, self.op.n)
        self.every = every
        self.tol = tol
        self.max_matvecs = max_matvecs
        self.trace_matvecs = trace_matvecs
        self.seed = fresh_seed(seed)
        self.on_row = on_row
        self.rows: list[TrackerRow] = []
        #: Those of the last measurement, (k, n) unit rows; None before the first.
        self.eigenvectors: Tensor | None = None

    def __call__(self, step: int, learning_rate: LearningRate = None) -> TrackerRow | None:
        """Measure if `step` is a multiple of `every`; give the row, or None."""
        return self.measure(step, learning_rate) if step % self.every == 0 else None

    def measure(self, step: int, learning_rate: LearningRate = None) -> TrackerRow:
        r"""Measure now.

        Parameters
        ----------
        step : int
            For the row.
        learning_rate : float, sequence of float, torch.optim.Optimizer, or None
            With it a row has ``stability``, the learning rate times the sharpness. Of several rates (an optimizer's
            groups, a scheduler's ``get_last_lr()``) the largest is taken: with a rate of its own for each parameter,
            :math:`\lambda_{\max}(D^{1/2} A D^{1/2}) \le \max_i D_{ii}\,\lambda_{\max}(A)`.

        Returns
        -------
        TrackerRow
            Appended to ``rows``, and given to `on_row`.

        Raises
        ------
        TypeError, ValueError
            If `learning_rate` is nothing of the kind.
        """
        start = time.perf_counter()
        rate = _largest_rate(learning_rate)
        here = loss_and_gradient(self.problem)
        eigen = lobpcg(
            self.op, k=self.k, tol=self.tol, max_matvecs=self.max_matvecs, seed=self.seed, start=self.eigenvectors
        )
        self.eigenvectors = eigen.eigenvectors
        products = eigen.num_matvecs
        estimate = None
        if self.trace_matvecs is not None:
            estimate = trace(self.op, num_matvecs=self.trace_matvecs, seed=self.seed)
            products += estimate.num_matvecs
        space, gradient = self.op.space, here.gradient[None]
        square = float(space.dots(gradient, gradient)[0])
        inside = float(space.gram(self.eigenvectors, gradient).square().sum())
        row = TrackerRow(
            step=step,
            learning_rate=rate,
            loss=here.loss,
            gradient_norm=math.sqrt(square),
            eigenvalues=tuple(eigen.eigenvalues.tolist()),
            residuals=tuple(eigen.residuals.tolist()),
            converged=bool(eigen.converged.all()),
            overlap=inside / square if square > 0.0 else math.nan,
            trace=None if estimate is None else estimate.estimate,
            trace_stderr=None if estimate is None else estimate.stderr,
            products=products,
            seconds=time.perf_counter() - start,
        )
        self.rows.append(row)
        if self.on_row is not None:
            self.on_row(row)
        return row

    def save(self, path: str | Path) -> Path:
        """Write the rows as CSV or JSON lines, as the suffix says, whole or not at all."""
        return save_rows(self.rows, path)

    def figure(self, *, title: str = "") -> Any:
        """Draw loss, sharpness against 2 / learning rate, and the gradient's overlap: a matplotlib figure."""
        from curvkit_core.plots import tracking_figure

        return tracking_figure([row.flat() for row in self.rows], title=title)

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``, a column a number."""
        from curvkit_core.results.tables import data_frame

        return data_frame([row.flat() for row in self.rows])

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on with training: for the user's own checkpoint."""
        return {"eigenvectors": self.eigenvectors, "seed": self.seed, "rows": [_plain(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state up: the next measurement starts from its eigenvectors."""
        vectors = state["eigenvectors"]
        if vectors is not None and tuple(vectors.shape) != (self.k, self.op.space.n_local):
            msg = f"eigenvectors have shape {tuple(vectors.shape)}: expected {(self.k, self.op.space.n_local)}."
            raise ValueError(msg)
        self.eigenvectors = None if vectors is None else vectors.to(self.op.space.device, self.op.space.dtype)
        self.seed = state["seed"]
        self.rows = [_row(item) for item in state["rows"]]


def _largest_rate(given: LearningRate) -> float | None:
    if given is None:
        return None
    rates = [group["lr"] for group in given.param_groups] if isinstance(given, Optimizer) else given
    try:
        return max(map(float, rates)) if isinstance(rates, Sequence) else float(rates)
    except (TypeError, ValueError) as error:
        msg = f"learning_rate={given!r}: expected a number, several of them, an optimizer, or None."
        raise type(error)(msg) from None


def _operator(problem: Any, kind: str) -> CurvatureOperator:
    if not isinstance(problem, Problem):
        msg = f"problem is a {type(problem).__name__}: expected a Problem(model, batches, loss) or an operator."
        raise TypeError(msg)
    return _KINDS[kind](problem)


def _plain(row: TrackerRow) -> dict[str, Any]:
    import attrs

    return attrs.asdict(row)


def _row(values: dict[str, Any]) -> TrackerRow:
    lists = {name: tuple(values[name]) for name in ("eigenvalues", "residuals")}
    return TrackerRow(**{**values, **lists})
