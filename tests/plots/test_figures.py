"""Figures: what is drawn is the data, and pyplot's global state stays alone."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from curvkit_core.plots import convergence_figure, density_figure, eigenvalue_figure, figure_bytes, save_figure
from curvkit_core.results.types import DensityResult, EigenHistory, EigenResult, ResultInfo, TraceResult

pytest.importorskip("matplotlib")

SIGMA, N = 0.05, 100
PNG = b"\x89PNG\r\n\x1a\n"


def eigen(**changes: Any) -> EigenResult:
    return EigenResult(
        **{
            "eigenvalues": torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64),
            "eigenvectors": torch.zeros(3, N),
            "residuals": torch.tensor([1e-6, 0.2, 0.0], dtype=torch.float64),
            "converged": torch.tensor([True, False, True]),
            "num_matvecs": 5,
            **changes,
        }
    )


def density(**changes: Any) -> DensityResult:
    grid = torch.linspace(-1, 4, 501, dtype=torch.float64)
    values = torch.exp(-(grid**2) / (2 * SIGMA**2)) / (SIGMA * math.sqrt(2 * math.pi))
    info = ResultInfo(operator="a", algorithm="b", num_matvecs=1, seconds=1.0, dtype="f", device="cpu", n=N)
    return DensityResult(
        **{
            "grid": grid,
            "density": values,
            "stderr": 0.1 * values,
            "nodes": torch.zeros(8, 4),
            "weights": torch.ones(8, 4),
            "sigma": SIGMA,
            "num_matvecs": 32,
            "seed": 0,
            "info": info,
            **changes,
        }
    )


def test_density_panels_hold_curve_band_and_marks() -> None:
    """Two panels of the same curve, one logarithmic; the band is one standard error; the marks are the eigenvalues."""
    result = density()
    figure = density_figure(result, eigen=eigen(), title="core/ggn")
    linear, logarithmic = figure.axes
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
    for ax in (linear, logarithmic):
        curve, done, open_ = ax.get_lines()
        assert curve.get_ydata() == pytest.approx(result.density.tolist(), rel=1e-15)
        assert list(done.get_xdata()) == [3.0, -0.5]
        assert list(open_.get_xdata()) == [1.0]
        assert open_.get_markerfacecolor() == "none"
        (band,) = ax.collections
        top = band.get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(1.1 * float(result.density.max()), rel=1e-12)
    labels = [text.get_text() for text in logarithmic.get_legend().get_texts()]
    assert "one standard error, 8 probes" in labels
    assert figure.get_suptitle() == "core/ggn"


def test_log_panel_shows_what_one_eigenvalue_contributes() -> None:
    """One eigenvalue among n gives 1 / (n sigma sqrt(2 pi)); the panel ends at a tenth of it."""
    low, high = density_figure(density()).axes[1].get_ylim()
    one = 1 / (N * SIGMA * math.sqrt(2 * math.pi))
    assert low == pytest.approx(0.1 * one)
    assert high > float(density().density.max())


def history() -> EigenHistory:
    values = torch.tensor([[2.0, -1.0], [2.5, 0.0], [3.0, 1.0]], dtype=torch.float64)
    bounds = torch.tensor([[4.0, 4.0], [0.1, 1.0], [0.0, 0.2]], dtype=torch.float64)
    return EigenHistory(num_matvecs=torch.tensor([10, 20, 30]), eigenvalues=values, residuals=bounds)


def trace_result(method: str) -> TraceResult:
    samples = torch.tensor([1.0, 3.0, 2.0, 6.0], dtype=torch.float64)
    return TraceResult(estimate=3.0, stderr=1.0, num_matvecs=4, method=method, seed=0, samples=samples)


def test_convergence_of_eigenvalues_is_drawn() -> None:
    """A line a pair over the products; a band from value - residual to value + residual; the residuals' own panel."""
    found = eigen(history=history())
    figure = convergence_figure(found, title="core/ggn")
    values, residuals = figure.axes
    assert [list(line.get_xdata()) for line in values.get_lines()] == [[10, 20, 30]] * 2
    assert [list(line.get_ydata()) for line in values.get_lines()] == [[2.0, 2.5, 3.0], [-1.0, 0.0, 1.0]]
    ends = [band.get_paths()[0].vertices[:, 1] for band in values.collections]
    assert [(float(e.min()), float(e.max())) for e in ends] == [(-2.0, 6.0), (-5.0, 3.0)]
    assert values.get_ylim() == pytest.approx((-1.2, 3.2))
    assert residuals.get_yscale() == "log"
    assert list(residuals.get_lines()[0].get_ydata()[:2]) == [4.0, 0.1]
    assert figure.get_suptitle() == "core/ggn"
    for nothing in (
        None,
        EigenHistory(**{f: getattr(history(), f)[:1] for f in ("num_matvecs", "eigenvalues", "residuals")}),
    ):
        with pytest.raises(ValueError, match="looks: expected two at least"):
            convergence_figure(eigen(history=nothing))


def test_convergence_of_a_trace_is_drawn() -> None:
    """The means 2, 2, 3 of the first 2, 3, 4 samples, ending at one standard error; of xtrace the samples."""
    (ax,) = convergence_figure(trace_result("hutchinson")).axes
    (line,) = ax.get_lines()
    assert list(line.get_xdata()) == [2, 3, 4]
    assert list(line.get_ydata()) == pytest.approx([2.0, 2.0, 3.0])
    top = ax.collections[0].get_paths()[0].vertices
    assert max(y for x, y in top if x == 4) == pytest.approx(3.0 + math.sqrt(14.0 / 3.0 / 4.0))
    (ax,) = convergence_figure(trace_result("xtrace")).axes
    assert list(ax.get_lines()[0].get_ydata()) == [1.0, 3.0, 2.0, 6.0]
    with pytest.raises(ValueError, match="2 finite samples: expected three at least"):
        convergence_figure(evolve(trace_result("hutchinson"), samples=torch.ones(2)))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_figures_scale_with_the_operator(scale: float) -> None:
    """Eigenvalues times c, density over c: both figures are drawn, with no warning."""
    base = density()
    scaled = density(
        grid=base.grid * scale, density=base.density / scale, stderr=base.stderr / scale, sigma=SIGMA * scale
    )
    values = eigen(eigenvalues=eigen().eigenvalues * scale, residuals=eigen().residuals * scale)
    assert figure_bytes(density_figure(scaled, eigen=values), "png").startswith(PNG)
    assert figure_bytes(eigenvalue_figure(values), "png").startswith(PNG)


@pytest.mark.parametrize(
    "changes",
    [
        {"density": torch.zeros(501, dtype=torch.float64), "stderr": torch.zeros(501, dtype=torch.float64)},
        {"info": None},
        {"sigma": 0.0},
    ],
)
def test_density_of_a_strange_result_is_drawn(changes: dict[str, Any]) -> None:
    """A zero density, no record, no width: a figure all the same."""
    assert figure_bytes(density_figure(density(**changes)), "png").startswith(PNG)


def test_eigenvalue_bars_are_the_residuals() -> None:
    """Bars reach from value - residual to value + residual; an exact pair has no place on the logarithmic panel."""
    figure = eigenvalue_figure(eigen())
    values, residuals = figure.axes
    segments = [seg for c in values.collections for seg in c.get_segments()]
    spans = sorted((float(seg[0][0]), float(seg[0][1]), float(seg[1][1])) for seg in segments)
    assert spans == [(1.0, 3 - 1e-6, 3 + 1e-6), (2.0, 0.8, 1.2), (3.0, -0.5, -0.5)]
    assert residuals.get_yscale() == "log"
    drawn = {(float(x), float(y)) for line in residuals.get_lines() for x, y in zip(*line.get_data(), strict=True)}
    assert drawn == {(1.0, 1e-6), (2.0, 0.2)}


@pytest.mark.parametrize("k", [0, 1])
def test_few_eigenvalues_are_drawn(k: int) -> None:
    """None at all (an interrupted run) or one."""
    few = eigen(
        eigenvalues=eigen().eigenvalues[:k],
        residuals=torch.zeros(k, dtype=torch.float64),
        converged=eigen().converged[:k],
    )
    assert figure_bytes(eigenvalue_figure(few), "png").startswith(PNG)


def test_figure_is_saved_as_its_suffix_says(tmp_path: Path) -> None:
    """PNG and SVG; another suffix is refused by name, and nothing is written."""
    figure = eigenvalue_figure(eigen())
    assert save_figure(figure, tmp_path / "a.png").read_bytes().startswith(PNG)
    assert b"<svg" in save_figure(figure, tmp_path / "a.svg").read_bytes()
    with pytest.raises(ValueError, match=r"'a.pdf' has the suffix '.pdf': expected .png or .svg"):
        save_figure(figure, tmp_path / "a.pdf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]


CHILD = """
import sys
{block}
from curvkit_core.plots import eigenvalue_figure, figure_bytes
assert not any(name.partition(".")[0] == "matplotlib" for name in sys.modules if sys.modules[name]), "imported early"
import torch
from curvkit_core.results.types import EigenResult
one = torch.ones(1, dtype=torch.float64)
result = EigenResult(eigenvalues=one, eigenvectors=one[None], residuals=one, converged=one > 0, num_matvecs=1)
try:
    figure_bytes(eigenvalue_figure(result), "png")
except ImportError as error:
    print("ImportError:", error)
print("pyplot" if "matplotlib.pyplot" in sys.modules else "no pyplot")
"""


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("", "no pyplot\n"),
        (
            "sys.modules['matplotlib'] = None",
            "ImportError: matplotlib is not installed, so no figure can be drawn. "
            'mend: pip install "curvkit-core[plot]"\nno pyplot\n',
        ),
    ],
)
def test_matplotlib_is_imported_late_and_pyplot_never(block: str, expected: str) -> None:
    """The import comes with the first figure; without the extra its name is told."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD.format(block=block)], capture_output=True, text=True, check=False
    )
    assert child.stderr == ""
    assert child.stdout == expected


def signed(**changes: Any) -> DensityResult:
    """A density per decade of either sign, a tenth of it not told from zero."""
    nodes = torch.tensor([[-1.0, 1e-4, 0.1, 10.0]], dtype=torch.float64).expand(8, 4).clone()
    weights = torch.tensor([[0.2, 0.1, 0.3, 0.4]], dtype=torch.float64).expand(8, 4).clone()
    return density(nodes=nodes, weights=weights, resolution=1e-3, **changes).redraw(scale="log", grid_size=400)


def test_log_scale_has_a_curve_for_either_sign_over_decades() -> None:
    """Both panels over log |t|: the data of either half, what is not told from zero shaded and named."""
    result = signed()
    for ax in density_figure(result, eigen=eigen()).axes:
        assert ax.get_xscale() == "log"
        positive, negative = ax.get_lines()[:2]
        for line, here in ((positive, result.grid > 0), (negative, result.grid < 0)):
            assert list(line.get_xdata()) == result.grid[here].abs().tolist()
            drawn = torch.tensor(line.get_ydata(), dtype=torch.float64)
            assert (drawn - result.density[here].clamp_min(1e-300)).abs().max() == 0
        assert ax.get_xlim()[0] < 1e-3 < 10 < ax.get_xlim()[1]
        assert ax.get_xlabel() == "|eigenvalue|"
    linear, logarithmic = density_figure(result).axes
    assert linear.get_title(loc="left") == "linear; 10 % not told from zero"
    labels = [text.get_text() for text in logarithmic.get_legend().get_texts()]
    assert {"spectral density, t > 0", "spectral density, t < 0", "|t| < 0.001, not told from zero"} <= set(labels)
    # the panel is as high as what is resolved: 0.4 of the mass in a Gaussian of 0.05 decades
    assert linear.get_ylim()[1] == pytest.approx(1.06 * 0.4 / (0.05 * math.sqrt(2 * math.pi)), rel=0.02)


def test_outliers_are_spikes_and_the_linear_panel_shows_the_bulk() -> None:
    """A line each, as high as its share of the density; the left panel ends with the bulk and says what lies beyond."""
    nodes = torch.linspace(0, 1, 4, dtype=torch.float64).expand(8, 4).clone()
    outliers = torch.tensor([40.0, 30.0], dtype=torch.float64)
    weights = torch.full((8, 4), 0.25, dtype=torch.float64)
    result = density(nodes=nodes, weights=weights, outliers=outliers, bulk_share=0.98).redraw(sigma=SIGMA)
    linear, logarithmic = density_figure(result).axes
    assert linear.get_xlim()[1] < 2
    assert logarithmic.get_xlim()[1] > 40
    assert linear.get_title(loc="left") == "linear, bulk; 2 outliers beyond it: 30 to 40"
    spikes = next(c for c in logarithmic.collections if "outliers" in str(c.get_label()))
    assert [(seg[0][0], seg[1][1]) for seg in spikes.get_segments()] == [
        (40.0, pytest.approx(0.01 / (SIGMA * math.sqrt(2 * math.pi)))),
        (30.0, pytest.approx(0.01 / (SIGMA * math.sqrt(2 * math.pi)))),
    ]
    at = (result.grid - 40.0).abs().argmin()
    assert float(result.density[at]) == pytest.approx(0.01 / (SIGMA * math.sqrt(2 * math.pi)), rel=1e-9)
    assert figure_bytes(density_figure(result.redraw(scale="log")), "png").startswith(PNG)


def test_kernel_polynomials_leave_their_poles_out() -> None:
    """The series' poles at the interval's ends are no part of the picture; its ripples are named."""
    grid = torch.linspace(-1, 4, 501, dtype=torch.float64)
    figure = density_figure(density(moments=torch.ones(8, 3), interval=(-1.0, 4.0)))
    linear, logarithmic = figure.axes
    assert float(grid[0]) < linear.get_xlim()[0] < linear.get_xlim()[1] < float(grid[-1])
    assert logarithmic.get_title(loc="left") == "logarithmic; ripples beside a peak are the kernel's"


def test_a_density_with_no_band_or_no_point_is_drawn() -> None:
    """One probe: no band; none at all: empty panels."""
    one = density(stderr=torch.full((501,), math.nan, dtype=torch.float64))
    for ax in density_figure(one).axes:
        assert not ax.collections
    none = torch.empty(0, dtype=torch.float64)
    empty = density(grid=none, density=none, stderr=none, nodes=none.view(0, 0), weights=none.view(0, 0))
    for scale in ("linear", "log"):
        assert figure_bytes(density_figure(empty.redraw(scale=scale)), "png").startswith(PNG)
