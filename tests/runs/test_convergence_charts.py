"""Convergence in the report: lines and bands where the numbers say, nothing where there is nothing to show."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix

from curvkit_core import LambdaOperator, eigsh, trace
from curvkit_core.results.types import EigenHistory, EigenResult
from curvkit_core.runs.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from curvkit_core.runs.report.convergence_charts import estimate_charts, history_charts

A = symmetric_matrix(torch.cat([torch.linspace(-1, 1, 57, dtype=F64), torch.tensor([3.0, 5.0, 9.0], dtype=F64)]))
OP = LambdaOperator(lambda v: A @ v, 60, dtype=F64)


def eigen(history: EigenHistory | None) -> EigenResult:
    last = torch.ones(1, dtype=F64)
    return EigenResult(
        eigenvalues=last,
        eigenvectors=torch.zeros(1, 5),
        residuals=last,
        converged=last > 0,
        num_matvecs=9,
        history=history,
    )


def paths(drawing: str, kind: str) -> list[list[tuple[float, float]]]:
    """The corners of each line or band of a chart, in pixels."""
    found = re.findall(rf'<path class="{kind}" d="([^"]*)"', drawing)
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)] for path in found]


def test_values_have_bands_as_wide_as_their_residuals() -> None:
    """By hand: 0, 2 and 4 after 10, 20 and 40 products, with residuals 4, 1 and 0.5."""
    history = EigenHistory(
        num_matvecs=torch.tensor([10, 20, 40]),
        eigenvalues=torch.tensor([[0.0], [2.0], [4.0]], dtype=F64),
        residuals=torch.tensor([[4.0], [1.0], [0.5]], dtype=F64),
    )
    values, residuals = history_charts(eigen(history), "core/ggn")
    (line,), (band,) = paths(values, "line"), paths(values, "band")
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    assert [x for x, _ in line] == pytest.approx([LEFT + width * at / 40 for at in (10, 20, 40)], abs=0.06)
    unit = (line[0][1] - line[2][1]) / 4.0
    assert unit == pytest.approx(height / 4.4, rel=0.01)  # with a margin of a twentieth at either end
    assert line[1][1] - line[2][1] == pytest.approx(2.0 * unit, abs=0.11)
    upper, lower = band[:3], band[:2:-1]
    assert lower[1][1] - upper[1][1] == pytest.approx(2.0 * unit, abs=0.11)  # from 1 to 3
    assert upper[0][1] == pytest.approx(TOP + 0.05 * height / 1.1, abs=0.2) or upper[0][1] == TOP  # cut at the frame
    (fall,) = paths(residuals, "line")
    assert [y for _, y in fall] == sorted(y for _, y in fall)  # falling: further down the page
    assert "number 1" in values
    assert "number 1" in residuals


def test_real_run_shows_first_last_and_between() -> None:
    """Eight of twenty eigenvalues: the first, the last, six between; the tolerance beside the residuals."""
    result = eigsh(OP, k=20, tol=1e-8, seed=0)
    values, residuals = history_charts(result, "core/ggn")
    assert len(paths(values, "line")) == len(paths(values, "band")) == len(paths(residuals, "line")) == 8
    for text in ("number 1<", "number 20<", "between<"):
        assert values.count(text) == 1
    assert residuals.count("tolerance<") == 1
    assert len(paths(residuals, "dashes")) == 2


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_each_count_of_eigenvalues_has_its_chart(k: int) -> None:
    result = eigsh(OP, k=k, ncv=15, tol=1e-8, seed=0)
    values, _ = history_charts(result, "x")
    assert len(paths(values, "line")) == min(k, 8)
    assert ("between<" in values) == (k > 2)


def test_without_history_there_is_no_chart() -> None:
    one = EigenHistory(num_matvecs=torch.tensor([3]), eigenvalues=A[:1, :2], residuals=A[:1, :2])
    assert history_charts(eigen(None), "x") == history_charts(eigen(one), "x") == []


@pytest.mark.parametrize(
    ("method", "title", "kind"),
    [("hutchinson", "Convergence of the trace", "line"), ("xtrace", "Samples of the trace", "points")],
)
def test_trace_shows_its_mean_or_its_samples(method: str, title: str, kind: str) -> None:
    """Samples that share their products have no mean so far; they are shown beside the estimate's error."""
    result = trace(OP, method=method, num_matvecs=24, seed=0)
    (drawing,) = estimate_charts(result, "core/ggn", "trace")
    assert f"{title} of core/ggn" in drawing
    if kind == "line":
        (line,) = paths(drawing, "line")
        assert len(line) == len(result.samples) - 1
    else:
        assert drawing.count('<circle class="points"') == len(result.samples)


@pytest.mark.parametrize("samples", [[1.0, 2.0], [1.0, float("nan"), 2.0]])
def test_few_or_undefined_samples_have_no_chart(samples: list[float]) -> None:
    class Result:
        def __init__(self) -> None:
            self.samples = torch.tensor(samples, dtype=F64)

    result: Any = Result()
    assert estimate_charts(result, "x", "trace") == []
