"""The report: the numbers of the results, readable in a pipe and on a terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from curvkit_core.results.types import DensityResult, EigenResult, ResultInfo, SpectralSumResult, TraceResult
from curvkit_core.runs import Run, RunResult, draw_figures, print_sections, report_sections
from curvkit_core.runs.report import number, number_column, with_error
from curvkit_core.runs.report.names import job_names
from curvkit_core.runs.table import Section, plain_text


def info(**changes: Any) -> ResultInfo:
    return ResultInfo(
        **{
            "operator": "o",
            "algorithm": "a",
            "options": {"k": 2, "which": "LA"},
            "num_matvecs": 20,
            "seconds": 0.5,
            "dtype": "float64",
            "device": "cpu",
            "n": 1000,
            "units": 13.0,
            "weighting": "unit",
            **changes,
        }
    )


def eigen(**changes: Any) -> EigenResult:
    return EigenResult(
        **{
            "eigenvalues": torch.tensor([12.3456789, 0.5], dtype=torch.float64),
            "eigenvectors": torch.zeros(2, 1000),
            "residuals": torch.tensor([1e-5, 0.2], dtype=torch.float64),
            "converged": torch.tensor([True, False]),
            "num_matvecs": 20,
            "info": info(converged=False),
            **changes,
        }
    )


def density() -> DensityResult:
    """A triangle of mass 1 on [-1, 1]; of the eigenvalues a quarter lies below -3 sigma and half within."""
    grid = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return DensityResult(
        grid=grid,
        density=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
        stderr=0.0 * grid,
        nodes=torch.tensor([[-0.5, 0.0, 0.29, 0.9, 77.0]], dtype=torch.float64),
        weights=torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0]], dtype=torch.float64),
        sigma=0.1,
        num_matvecs=5,
        seed=0,
        info=info(),
    )


def a_run(*results: Any, operators: int = 1) -> Run:
    rows = tuple(
        RunResult(
            operator="core/ggn",
            algorithm=f"core/{type(result).__name__.lower()}",
            label=f"core/ggn #{i}",
            operator_index=i,
            algorithm_index=j,
            result=result,
            seconds=0.5,
        )
        for i in range(operators)
        for j, result in enumerate(results)
    )
    facts = {
        "description": "a small net",
        "model": "MLP",
        "loss": "CE",
        "n": 1000,
        "parameters": 4,
        "weighting": "unit",
        "dtype": "float64",
        "device": "cpu",
    }
    return Run(plan={"problem": {"kind": "core/python"}}, folder=Path("x"), problem=facts, results=rows)


def cells(sections: list[Section], title: str) -> list[tuple[str, ...]]:
    return next(list(s.rows) for s in sections if s.title.startswith(title))


def test_report_has_the_numbers_that_a_researcher_reads() -> None:
    """Eigenvalues with residuals and marks, trace with error, density with mass, range and shares, cost."""
    trace = TraceResult(estimate=8.22534, stderr=0.0576, num_matvecs=99, method="hutch++", seed=0, info=info())
    sections = report_sections(a_run(eigen(), trace, density()))
    assert cells(sections, "eigenvalues") == [
        ("1", "12.3457", "1.0e-05", ""),
        ("2", "0.5000", "0.20", "x"),
    ]
    assert cells(sections, "trace") == [("core/ggn #0", "8.225", "+- 0.058", "0.7 %", "none")]
    assert cells(sections, "spectral density") == [
        ("core/ggn #0", "1.0000", "-0.5000", "0.9000", "50.0 %", "25.0 %", "0.10"),
    ]
    assert [row[1:] for row in cells(sections, "cost")] == [
        ("20", "0.50", "25.0", "not converged"),
        ("99", "0.50", "5.1", "done"),
        ("5", "0.50", "100.0", "done"),
    ]
    text = plain_text(sections)
    for part in ("a small net", "n = 1,000 in 4 tensors", "averaged over 13 units", "x: not converged to the"):
        assert part in text


def test_densities_say_their_method_scale_and_outliers() -> None:
    """With half of the eigenvalues taken out, above 3 sigma, shares of the bulk are halved; on the log scale they are
    those within the resolution.
    """
    outliers = torch.tensor([7.0, 9.0], dtype=torch.float64)
    result = evolve(density(), method="deflated", outliers=outliers, bulk_share=0.5)
    (section,) = (s for s in report_sections(a_run(result)) if s.title.startswith("spectral density"))
    assert "deflated, 1 probe of 5 steps, linear scale" in section.title
    assert section.rows[0][2:6] == ("-0.5000", "9.000", "25.0 %", "12.5 %")
    assert section.notes[-1] == "core/ggn #0: 2 outliers taken out, 7.000 to 9.000."
    log = evolve(density(), scale="log", resolution=0.4, method="kpm")
    (section,) = (s for s in report_sections(a_run(log)) if s.title.startswith("spectral density"))
    assert section.columns[4:6] == ("|t| <= resolution", "t < -resolution")
    assert section.rows[0][4:6] == ("50.0 %", "25.0 %")
    assert "moments" in section.title


def test_sums_over_the_spectrum_have_their_error_and_status() -> None:
    """Sum, error, bias bound; where it is not defined, why and the mend."""
    empty = torch.zeros((0, 0), dtype=torch.float64)
    common = {"num_matvecs": 9, "damping": 0.1, "seed": 0, "n": 3, "eps": 1e-16, "degrees": empty[0:0].sum(1)}
    tables = dict.fromkeys(("nodes", "weights", "lower_nodes", "lower_weights"), empty)
    done = SpectralSumResult(
        estimate=-18.25, stderr=0.5, bias_bound=1e-3, function="log", status="done", info=info(), **common, **tables
    )
    undone = SpectralSumResult(function="ratio", status="not positive: a reason", info=info(), **common, **tables)
    sections = report_sections(a_run(done, undone))
    assert cells(sections, "sum of log(t + damping)") == [("core/ggn #0", "-18.25", "+- 0.50", "2.7 %", "0.0010")]
    assert cells(sections, "sum of t / (t + damping)")[0][1:3] == ("nan", "+- inf")
    assert "core/ggn #0: not positive: a reason." in plain_text(sections)


def test_density_is_the_mean_of_its_mass() -> None:
    """Mass is the trapezoid sum over the grid: doubling the density doubles it."""
    doubled = evolve(density(), density=2 * density().density)
    assert cells(report_sections(a_run(doubled)), "spectral density")[0][1] == "2.0000"


def test_operators_stand_side_by_side_three_a_table() -> None:
    """Five operators make two tables; each has its own columns."""
    sections = report_sections(a_run(eigen(), operators=5))
    tables = [s for s in sections if s.title.startswith("eigenvalues")]
    assert [len(s.columns) for s in tables] == [10, 7]
    assert tables[1].columns[1] == "core/ggn #3"
    assert all(len(row) == len(s.columns) for s in tables for row in s.rows)


def test_interrupted_and_foreign_results_are_told() -> None:
    """A run cut short says so; a result of unknown class shows its numbers and its tensors' shapes."""
    short = eigen(
        eigenvalues=torch.zeros(0),
        eigenvectors=torch.zeros(0, 5),
        residuals=torch.zeros(0),
        converged=torch.zeros(0, dtype=torch.bool),
        info=info(interrupted="keyboard"),
    )
    foreign = ResultInfo(operator="o", algorithm="a", num_matvecs=3, seconds=1.0, dtype="f", device="cpu", n=2)
    stored = {"value": 1 / 3, "tensor": torch.zeros(2, 3), "short": torch.tensor([1.0, 2.0]), "name": "x"}
    sections = report_sections(a_run(short, foreign, stored))
    assert cells(sections, "cost")[0][-1] == "stopped by Ctrl-C"
    assert ("num_matvecs", "3") in cells(sections, "core/resultinfo on")
    assert cells(sections, "core/dict on") == [
        ("value", "0.333333"),
        ("tensor", "tensor (2, 3) float32"),
        ("short", "1.00000, 2.00000"),
        ("name", "x"),
    ]


def test_results_of_one_algorithm_are_told_apart() -> None:
    """By the first option that does, else by all that differ, else by number; one alone has its plain name."""
    many = [info(options={"method": m, "num_matvecs": n}) for m, n in (("a", 1), ("b", 1), ("c", 2))]
    pairs = [info(options={"x": x, "y": y}) for x, y in ((1, 1), (1, 2), (2, 1), (2, 2))]
    same = [info(options={"k": 1})] * 2
    names = [job_names(rows_of(*(evolve(eigen(), info=i) for i in infos))) for infos in (many, pairs, same, [info()])]
    assert names[0] == [f"core/eigsh on core/ggn (method = {m})" for m in "abc"]
    assert names[1][2] == "core/eigsh on core/ggn (x = 2, y = 1)"
    assert names[2] == ["core/eigsh on core/ggn (number 1)", "core/eigsh on core/ggn (number 2)"]
    assert names[3] == ["core/eigsh on core/ggn"]


def rows_of(*results: Any) -> list[RunResult]:
    common: dict[str, Any] = {"operator": "core/ggn", "algorithm": "core/eigsh", "label": "core/ggn", "seconds": 0.5}
    return [RunResult(**common, operator_index=0, algorithm_index=i, result=r) for i, r in enumerate(results)]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0"),
        (1.0, 3, "1.00"),
        (123456.7, 6, "123457"),
        (1e6, 3, "1.00e+06"),
        (9.4e-7, 2, "9.4e-07"),
        (-0.02201, 4, "-0.02201"),
        (999999.9, 6, "1.00000e+06"),
        (math.inf, 3, "inf"),
        (math.nan, 3, "nan"),
    ],
)
def test_number_has_its_digits(value: float, digits: int, text: str) -> None:
    """Significant digits, plain where short."""
    assert number(value, digits) == text


def test_columns_and_errors_are_aligned() -> None:
    """One count of decimals a column; a value ends where its error's second digit is."""
    assert number_column([12.3456789, 0.5, -3.0]) == ["12.3457", "0.5000", "-3.0000"]
    assert number_column([1.0, 1e-7]) == ["1.00000e+00", "1.00000e-07"]
    assert number_column([0.0]) == ["0"]
    assert number_column([]) == []
    assert number_column([math.nan, 1.0]) == ["nan", "1.00000"]
    assert with_error(8.22534, 0.0576) == ("8.225", "+- 0.058")
    assert with_error(1234.5, 120.0) == ("1234", "+- 120")
    assert with_error(5.0, 0.0) == ("5.00000", "+- 0")
    assert with_error(1e-9, 1e-12) == ("1.00000e-09", "+- 1.0e-12")
    assert with_error(-2.826e-8, 9.7e-6) == ("-3e-08", "+- 9.7e-06")  # no digits of what is not known
    assert with_error(2.5e-6, 9.7e-6) == ("2.50e-06", "+- 9.7e-06")
    assert with_error(0.0, 9.7e-6)[0] == "0"
    assert with_error(-0.001, 0.28) == ("0.00", "+- 0.28")


def test_pipe_gets_plain_ascii_and_terminal_a_table() -> None:
    """No escape codes in a pipe; on a terminal the same cells."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    sections = report_sections(a_run(eigen(), density()))
    pipe, terminal = io.StringIO(), Terminal()
    print_sections(sections, pipe)
    print_sections(sections, terminal)
    assert pipe.getvalue().isascii()
    assert "\x1b" not in pipe.getvalue()
    assert all(line == line.rstrip() for line in pipe.getvalue().splitlines())
    for part in ("12.3457", "1.0e-05", "core/ggn #0"):
        assert part in pipe.getvalue()
        assert part in terminal.getvalue()


def test_narrow_terminal_loses_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table wider than the terminal is written as in a pipe, not cut."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    print_sections(report_sections(a_run(density(), eigen(), operators=3)), terminal)
    for part in ("|t| <= 3 sigma", "12.3457   1.0e-05", "not converged"):
        assert part in terminal.getvalue()


def test_empty_density_is_reported() -> None:
    """A run that was stopped before its first probe has no Ritz values."""
    empty = evolve(density(), nodes=torch.zeros(0, 5), weights=torch.zeros(0, 5))
    assert cells(report_sections(a_run(empty)), "spectral density")[0][2:6] == ("", "", "", "")


def test_figures_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A density and its eigenvalues as PNG and SVG; two alike are numbered; without matplotlib one line says how."""
    pytest.importorskip("matplotlib")
    said: list[str] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    names = draw_figures(a_run(eigen(), density(), operators=2), tmp_path / "a", said.append)
    assert said == []
    assert len(names) == 8
    assert sorted(names) == sorted(p.name for p in (tmp_path / "a").iterdir())
    assert {"eigenresult-ggn-0-0.png", "densityresult-ggn-1-1.svg"} <= set(names)
    assert said == []
    bad = a_run(evolve(density(), grid=torch.zeros(7)), eigen())
    assert len(draw_figures(bad, tmp_path / "b", said.append)) == 2
    assert said[0].startswith("densityresult-ggn.png could not be drawn: ")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert draw_figures(bad, tmp_path / "b", said.append) == ()
    assert said[1:] == [
        'matplotlib is not installed, so no figure can be drawn. mend: pip install "curvkit-core[plot]"'
    ]
