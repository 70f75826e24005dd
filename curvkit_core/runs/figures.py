"""The figures of a run: a density an operator, with the eigenvalues found for it, the eigenvalues, how they settled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import Run, RunResult

__all__ = ["draw_figures"]


def draw_figures(run: Run, folder: Path, say: Callable[[str], None]) -> tuple[str, ...]:
    """Draw a run's figures into a folder; one that cannot be drawn costs a line on stderr, never the run.

    Parameters
    ----------
    run : Run
        With its results.
    folder : Path
        Where to.
    say : callable
        Told what could not be drawn, and how to mend it.

    Returns
    -------
    tuple of str
        The files.
    """
    from curvkit_core.plots import MissingPlotExtraError, figure_bytes

    drawn: list[str] = []
    for r in run.results:
        title = f"{r.label}    {run.problem.get('model', '')}, n = {run.problem.get('n', '?'):,}".rstrip(" ,")
        for part, draw in _figures(r, run.results):
            name = _file_name(r, run.results) + part
            try:
                figure = draw(title=title)
                for suffix in ("png", "svg"):
                    (folder / f"{name}.{suffix}").write_bytes(figure_bytes(figure, suffix))
                    drawn.append(f"{name}.{suffix}")
                    figure.set_layout_engine("none")  # laid out once: that is half of the time of drawing
            except MissingPlotExtraError as error:
                say(str(error))
                return tuple(drawn)
            except Exception as error:  # noqa: BLE001 - a figure is not worth the numbers of a long run
                say(f"{name}.png could not be drawn: {type(error).__name__}: {error}")
    return tuple(drawn)


def _figures(r: RunResult, results: Sequence[RunResult]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield what a result's figures add to their file's name, and what draws them."""
    from curvkit_core.plots import convergence_figure, density_figure, eigenvalue_figure, slice_figure, sweep_figure
    from curvkit_core.results.types import DensityResult, EigenResult, SliceResult, SweepResult, TraceResult

    result = r.result
    if isinstance(result, DensityResult):
        # outliers that were taken out are marked already
        eigen = None if len(result.outliers) else _eigenvalues_of(r.operator_index, results)
        yield "", partial(density_figure, result, eigen=eigen)
    elif isinstance(result, SweepResult):
        yield "", partial(sweep_figure, result)
    elif isinstance(result, SliceResult):
        yield "", partial(slice_figure, result)
    elif isinstance(result, EigenResult):
        yield "", partial(eigenvalue_figure, result)
        if result.history is not None and len(result.history.num_matvecs) > 1:
            yield "-convergence", partial(convergence_figure, result)
    elif isinstance(result, TraceResult) and len(result.samples) > 2 and math.isfinite(result.estimate):
        yield "-convergence", partial(convergence_figure, result)


def _eigenvalues_of(operator_index: int, results: Sequence[RunResult]) -> Any:
    from curvkit_core.results.types import EigenResult

    found = (r.result for r in results if r.operator_index == operator_index and isinstance(r.result, EigenResult))
    return next(found, None)


def _file_name(r: RunResult, results: Sequence[RunResult]) -> str:
    """Return ``spectral-density-hessian``, with numbers where two would be alike."""
    name = _stem(r)
    alike = [other for other in results if _stem(other) == name]
    return name if len(alike) == 1 else f"{name}-{r.operator_index}-{r.algorithm_index}"


def _stem(r: RunResult) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", f"{r.algorithm.rpartition('/')[2]}-{r.operator.rpartition('/')[2]}")
