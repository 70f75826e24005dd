"""report.html: every number with its error, every name escaped, nothing from outside; and its charts' geometry."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from curvkit_core import Registry
from curvkit_core.results.types import EigenResult, TraceResult
from curvkit_core.runs import Destination, Run, RunResult, execute, make_plan, open_run, plan_record, prepare, write_run
from curvkit_core.runs.progress import QuietProgress
from curvkit_core.runs.report import report_html
from curvkit_core.runs.report.axis import Axis, axis_over, tick_text
from curvkit_core.runs.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Mark, chart
from curvkit_core.runs.report.heat_map import heat_map
from curvkit_core.runs.report.reproduce import reproducing_toml

EVIL = '<img src=x onerror="alert(1)">&\'"</script>'


class Outline(HTMLParser):
    """Tags that are open, text, and attributes that could load or run something."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.suspicious: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name.startswith("on") or (name in ("src", "href") and not (value or "").startswith(("#", "data:,"))):
                self.suspicious.append((tag, name))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(page: str) -> Outline:
    read = Outline()
    read.feed(page)
    assert read.open == []
    return read


@pytest.fixture
def run(data: dict[str, Any], registry: Registry) -> Run:
    """Eigenvalues, traces, a density, a third party's result, a sweep and slices of two operators."""
    data["algorithm"].append({"kind": "spectral-density", "num_probes": 2, "steps": 4, "seed": 0})
    data["sweep"] = {"by": "parameter", "num_probes": 2}
    data["landscape"] = {"points": 5}
    plan = make_plan(data, registry, source="run.toml")
    prepared = prepare(plan, registry)
    started = Run(plan=plan_record(plan, prepared), folder=Path("nowhere"), problem=prepared.problem.describe())
    return execute(prepared, started, registry, QuietProgress())


def test_page_is_well_formed_and_loads_nothing(run: Run) -> None:
    """Tags close in order; no script, no image, no address but its own anchors; a policy that forbids the rest."""
    page = report_html(run)
    read = outline(page)
    assert read.suspicious == []
    assert not {"script", "img", "iframe", "object", "embed"} & set(read.tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page


def test_page_holds_the_numbers_and_figures(run: Run) -> None:
    """The largest eigenvalue 5, the exact trace 10.5, each figure once an operator, the tables and the run file."""
    page = report_html(run)
    text = outline(page).text
    for part in ("Largest eigenvalue of core/hessian", "5.00000", "Exact, up to rounding.", "10.5",
                 "local/rayleigh on core/hessian", "Coupling between groups", "How to run it again", 'kind = "eigsh"',
                 "sweep of core/hessian by parameter", "seen in the loss"):  # fmt: skip
        assert part in text, part
    # eigenvalues and residuals, convergence of a trace, two of a density, two of a sweep and its heat map, two slices
    per_operator = len(re.findall("<figure", page))
    assert per_operator >= 18
    assert page.count("<svg") == page.count("</svg>") >= 16


def test_names_are_escaped_everywhere(run: Run) -> None:
    """A label, a description, a finding, a group and an option that would be run: text."""
    import attrs

    problem = {**run.problem, "description": EVIL, "model": EVIL, "loss": EVIL}
    plan = {
        **run.plan,
        "problem": {**run.plan["problem"], "kind": EVIL},
        "auto_notes": [EVIL],
        "versions": {EVIL: EVIL},
    }
    plan["tables"] = {"schema": 1, "problem": {"kind": EVIL}}
    results = []
    for r in run.results:
        result = r.result
        if getattr(result, "info", None) is not None:
            info = attrs.evolve(result.info, findings=(EVIL,), options={EVIL: EVIL, "k": EVIL})
            result = attrs.evolve(result, info=info)
        if hasattr(result, "rows"):
            result = attrs.evolve(result, rows=tuple(attrs.evolve(row, group=EVIL) for row in result.rows), by=(EVIL,))
        results.append(attrs.evolve(r, result=result, label=EVIL, algorithm=EVIL, operator=EVIL))
    page = report_html(attrs.evolve(run, problem=problem, plan=plan, results=tuple(results)))
    read = outline(page)
    assert read.suspicious == []
    assert "<img" not in page
    assert "</script" not in page
    assert read.text.count(EVIL) >= 10


def test_page_of_a_stored_run_is_the_same(run: Run, here: Path) -> None:
    """open_run gives plan, facts and results back: the page it makes is the one in the folder."""
    from dataclasses import FrozenInstanceError

    folder = write_run(run, Destination(folder=here / "out"), [])
    again = open_run(folder)
    assert again.plan["problem"]["kind"] == "local/diagonal"
    assert again.problem["n"] == 6
    assert report_html(again) == (folder / "report.html").read_text(encoding="utf-8")
    with pytest.raises((AttributeError, FrozenInstanceError)):
        again.stopped = "keyboard"  # type: ignore[misc]


def test_stopped_run_says_so(run: Run) -> None:
    import attrs

    assert "ended by a spent budget of products" in report_html(attrs.evolve(run, stopped="products"))
    assert "not finished" not in report_html(run)


def test_run_without_results_has_a_page(run: Run) -> None:
    import attrs

    text = outline(report_html(attrs.evolve(run, results=()))).text
    assert "no headline numbers" in text


def test_partial_results_have_a_page() -> None:
    """No eigenvalue yet, no sample, NaN: a page all the same."""
    empty = torch.empty(0, dtype=torch.float64)
    none = EigenResult(eigenvalues=empty, eigenvectors=torch.empty(0, 3), residuals=empty, converged=empty.bool(), num_matvecs=0)  # fmt: skip # noqa: E501
    trace = TraceResult(
        estimate=math.nan, stderr=math.inf, num_matvecs=0, method="hutchinson", seed=0, status="indefinite"
    )
    rows = [
        RunResult(
            operator="o", algorithm=f"a{i}", label="o", operator_index=0, algorithm_index=i, result=r, seconds=0.1
        )
        for i, r in enumerate((none, trace))
    ]
    text = outline(report_html(Run(plan={}, folder=Path("x"), problem={}, results=tuple(rows)))).text
    assert "There is no estimate: indefinite." in text


def test_points_lie_where_the_axes_say() -> None:
    """The ends of the axes are the corners of the frame; the middle of a log axis is the geometric mean."""
    x, y = Axis(low=0.0, high=10.0), Axis(low=1e-2, high=1e2, scale="log")
    drawing = chart([Mark(kind="points", x=[0.0, 10.0, 5.0], y=[1e-2, 1e2, 1.0])], x, y, title="t")
    places = [(float(a), float(b)) for a, b in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert places == [(LEFT, foot), (right, TOP), ((LEFT + right) / 2, (TOP + foot) / 2)]


def test_error_bars_are_as_long_as_the_errors() -> None:
    y = Axis(low=0.0, high=10.0)
    drawing = chart([Mark(kind="points", x=[1.0], y=[5.0], low=[4.0], high=[7.0])], Axis(low=0, high=2), y, title="t")
    top, foot = map(float, re.findall(r'<path class="line" d="M[\d.]+ ([\d.]+)V([\d.]+)', drawing)[0])
    unit = (HEIGHT - TOP - BOTTOM) / 10.0
    assert foot - top == pytest.approx(3.0 * unit, abs=0.11)  # written to a tenth


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(low=0.0, high=10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (Axis(low=0.4, high=2.6, whole=True), [1.0, 2.0]),
        (Axis(low=0.4, high=30.6, whole=True), [10.0, 20.0, 30.0]),
        (Axis(low=-0.013, high=0.031), [-0.01, 0.0, 0.01, 0.02, 0.03]),
        (Axis(low=1e-3, high=1e3, scale="log"), [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0]),
        (Axis(low=1e-12, high=1.0, scale="log"), [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_axes_of_odd_data_are_axes() -> None:
    """One value, none, zeros, infinities: a range that is not empty, and a text for every tick."""
    for values in ([3.0], [], [0.0, 0.0], [math.inf, math.nan], [1e300, -1e300], [1e-300]):
        for scale in ("linear", "log"):
            axis = axis_over(values, scale=scale)
            assert axis.low < axis.high
            assert all(tick_text(t, scale) for t in axis.ticks())
            assert 0.0 <= axis.at(1.0) <= 1.0


def test_heat_map_shows_each_number_and_the_largest_groups() -> None:
    """Cells hold their numbers; of many groups those with the largest norms are shown, and how many are not."""
    values = [[float(10 * i + j + 1) for j in range(30)] for i in range(30)]
    text = heat_map(values, [f"g{i}" for i in range(30)], title="norms", most=3)
    assert re.findall(r'<th scope="row">(\d+: \w+)</th>', text) == ["28: g27", "29: g28", "30: g29"]
    assert "The 27 groups with the smallest norms are left out." in text
    assert "g29, g29: 320" in text
    assert 'class="dark"' in text


def test_reproducing_file_makes_the_same_plan(data: dict[str, Any], registry: Registry, here: Path) -> None:
    """The seeds that were drawn stand in it: read again, it is the plan."""
    from curvkit_core.config import read_toml

    data["sweep"] = {"by": "parameter"}
    plan = make_plan(data, registry, source="run.toml")
    text = reproducing_toml(plan_record(plan))
    (here / "again.toml").write_text(text)
    again = make_plan(read_toml(here / "again.toml"), registry, source="again.toml")
    assert [a.component.config for a in again.algorithms] == [a.component.config for a in plan.algorithms]
    assert again.seeds == {}
    assert plan.seeds
    assert reproducing_toml({}) == ""
