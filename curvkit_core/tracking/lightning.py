"""The tracker as a callback of Lightning's Trainer: the extra `lightning`, imported with this module alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curvkit_core.problem import Problem
from curvkit_core.tracking.row import TrackerRow
from curvkit_core.tracking.tracker import CurvatureTracker

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lightning":
        raise
    msg = 'lightning is not installed, so there is no callback. mend: pip install "curvkit-core[lightning]"'
    raise ImportError(msg) from None

__all__ = ["LightningCurvature"]


class LightningCurvature(Callback):  # type: ignore[misc]  # lightning is not there when types are checked
    """Measures curvature every so many optimizer steps, and logs it as ``curvature/sharpness`` and the like.

    Parameters
    ----------
    problem : callable
        ``problem(module) -> Problem``, called once when fitting starts: on fixed batches of your own.
    every : int, at least 1
        Optimizer steps between two measurements.
    **options
        Of :class:`CurvatureTracker`: `kind`, `k`, `tol`, `trace_matvecs`, `seed`, ...

    Notes
    -----
    On rank 0 of several the measurement is that rank's own: pass a problem with a backend for one over all data. The
    rows, and the eigenvectors that the next measurement starts from, go into Lightning's checkpoints.

    Examples
    --------
    >>> callback = LightningCurvature(lambda module: Problem(module.net, batches, CrossEntropyLoss()))  # doctest: +SKIP
    >>> Trainer(callbacks=[callback]).fit(module, loader)                                              # doctest: +SKIP
    """

    def __init__(self, problem: Callable[[Any], Problem], *, every: int = 100, **options: Any) -> None:
        super().__init__()
        self._problem = problem
        self._every = every
        self._options = options
        self._loaded: dict[str, Any] | None = None
        self._measured = 0  # the last step that was measured; none before the first
        self.tracker: CurvatureTracker | None = None

    @property
    def rows(self) -> list[TrackerRow]:
        """What was measured."""
        return self.tracker.rows if self.tracker is not None else []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the problem; take up what a checkpoint brought."""
        self.tracker = CurvatureTracker(self._problem(pl_module), every=self._every, **self._options)
        if self._loaded is not None:
            self.tracker.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure after an optimizer step whose number is a multiple of `every`."""
        step = trainer.global_step
        if self.tracker is None or step == self._measured or step % self._every:
            return  # a batch whose gradient is only accumulated makes no step
        self._measured = step
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        row = self.tracker.measure(step, rates or None)
        named = {"sharpness": row.sharpness, "stability": row.stability, "overlap": row.overlap, "trace": row.trace}
        values = {f"curvature/{name}": float(value) for name, value in named.items() if value is not None}
        values |= {f"curvature/eig_{i}": value for i, value in enumerate(row.eigenvalues)}
        pl_module.log_dict(values)

    def state_dict(self) -> dict[str, Any]:
        """Return the tracker's state, for Lightning's checkpoint."""
        return self.tracker.state_dict() if self.tracker is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until fitting starts."""
        self._loaded = state_dict or None
