"""Curvature through training: a callback for transformers' Trainer, which measures on fixed batches and logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from curvkit_core import CurvkitError, Problem
from curvkit_core.tracking import CurvatureTracker, TrackerRow
from curvkit_hf.choose_loss import loss_for

__all__ = ["CurvatureCallback"]

_log = logging.getLogger("curvkit")
_LOGGED = ("sharpness", "stability", "trace", "trace_stderr", "overlap")


class CurvatureCallback(TrainerCallback):
    """Top eigenvalues, sharpness and trace every so many steps, in the trainer's own log and all its loggers.

    Training goes on bit for bit as without it: weights, gradients, modes and random state are as they were after each
    measurement. Nothing is held between two of them but the eigenvectors that the next one starts from.

    Parameters
    ----------
    batches : iterable of mappings
        The probe set: the same batches at every measurement, as the model takes them, with labels as its loss needs.
    every : int, at least 1
        Steps of the optimizer between measurements; the first comes after so many.
    k : int, at least 1
        Eigenvalues, largest first.
    kind : {"hessian", "ggn"}
        Which matrix.
    tol : float
        Relative residual of the eigenvalues.
    max_matvecs : int
        Products that the eigenvalues of one measurement may cost.
    trace_matvecs : int or None
        Products for the trace, at least 6; None: no trace. The probes are the same each time, so that changes are the
        matrix's.
    loss : LossAdapter or None
        None: the one that fits the model, by :func:`curvkit_hf.loss_for`.
    params : None, str, iterable of str, or callable
        Which parameters; None: all that require a gradient.
    seed : int
        Of start vectors and probes.
    options : mapping or None
        Further options of :class:`curvkit_core.Problem`, such as ``microbatch_size``.

    Attributes
    ----------
    rows : list of TrackerRow
        What was measured, with residuals, products and seconds.

    Notes
    -----
    Logged are ``curvature/eig_0`` to ``curvature/eig_{k-1}``, ``curvature/sharpness`` (the first of them),
    ``curvature/stability`` (learning rate times sharpness), ``curvature/trace`` and its ``_stderr``, and
    ``curvature/overlap`` (the share of the gradient in those eigenvectors). A first measurement that fails ends
    training with its error; a later one, of a loss that has become infinite for instance, is a warning.

    Costs, memory and start are those of :class:`curvkit_core.tracking.CurvatureTracker`. Not supported: parameters that
    are sharded over ranks (FSDP, DeepSpeed).
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        every: int = 100,
        k: int = 1,
        kind: str = "hessian",
        tol: float = 1e-2,
        max_matvecs: int = 100,
        trace_matvecs: int | None = 12,
        loss: Any = None,
        params: Any = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            msg = f"every={every!r} is out of range: expected an integer, at least 1."
            raise ValueError(msg)
        self.batches = batches
        self.every = every
        self.loss = loss
        self.params = params
        self.options = dict(options or {})
        self.tracker_options: dict[str, Any] = {
            "k": k,
            "kind": kind,
            "tol": tol,
            "max_matvecs": max_matvecs,
            "trace_matvecs": trace_matvecs,
            "seed": seed,
        }
        self.rows: list[TrackerRow] = []
        self._problem: Problem | None = None
        self._vectors: Tensor | None = None
        self._trainer: Trainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Take hold of the trainer whose log is written to; look at options, model and probe set before any step."""
        self._trainer = _calling_trainer()
        self._vectors = None
        loss = loss_for(model) if self.loss is None else self.loss
        self._problem = Problem(model, self.batches, loss, params=self.params, **self.options)
        _ = self._problem.loss  # is bound to the model here, once, and shared by the twins
        self._tracker()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Measure and log, every so many steps."""
        if state.global_step % self.every:
            return
        rate = optimizer.param_groups[0]["lr"] if optimizer is not None else None
        tracker = self._tracker()
        try:
            row = tracker.measure(state.global_step, rate)
        except (CurvkitError, ArithmeticError, RuntimeError, ValueError) as error:
            if not self.rows:
                raise
            _log.warning("step %d: curvature was not measured: %s", state.global_step, error)
            return
        self._vectors = tracker.eigenvectors
        self.rows.append(row)
        flat = {name: value for name, value in row.flat().items() if name.startswith("eig_") or name in _LOGGED}
        assert self._trainer is not None
        due = control.should_log
        self._trainer.log({f"curvature/{name}": value for name, value in flat.items() if value is not None})
        control.should_log = due  # the trainer takes whatever was logged for its own loss's line

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of model and trainer."""
        self._problem = self._vectors = self._trainer = None

    def _tracker(self) -> CurvatureTracker:
        """A tracker on a twin of the problem: the graphs that it keeps go with it; what was checked once stays so."""
        assert self._problem is not None
        tracker = CurvatureTracker(self._problem.on_batches(self.batches), **self.tracker_options)
        tracker.eigenvectors = self._vectors
        return tracker


def _calling_trainer() -> Trainer:
    """The trainer that is calling: a callback is handed all but it, and its ``log`` is the way to all loggers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    msg = "CurvatureCallback was called by no transformers.Trainer: expected Trainer(..., callbacks=[callback])."
    raise RuntimeError(msg)
