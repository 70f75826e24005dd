"""The tracker: every number against dense linear algebra, at each step of a real training run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from curvkit_core import CrossEntropyLoss, CurvatureTracker, GGNOperator, HessianOperator, LambdaOperator, Problem

F64 = torch.float64


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Problem(model, [(torch.randn(16, 3, dtype=F64), torch.randint(3, (16,)))], CrossEntropyLoss())


def step_down(problem: Problem, learning_rate: float) -> None:
    x, y = problem.batches[0]
    loss = nn.functional.cross_entropy(problem.model(x), y)
    slopes = torch.autograd.grad(loss, list(problem.model.parameters()))
    with torch.no_grad():
        for p, slope in zip(problem.model.parameters(), slopes, strict=True):
            p -= learning_rate * slope


def test_rows_are_right_at_every_step(problem: Problem) -> None:
    """Eigenvalues within their residuals, overlap, loss and gradient: against dense eigenvectors as training goes."""
    tracker = CurvatureTracker(problem, k=2, every=3, tol=1e-8, trace_matvecs=12, seed=0)
    for step in range(7):
        row = tracker(step, learning_rate=0.5)
        assert (row is None) == (step % 3 != 0)
        if row is not None:
            dense = HessianOperator(problem).to_dense()
            values, vectors = torch.linalg.eigh(dense)
            x, y = problem.batches[0]
            loss = nn.functional.cross_entropy(problem.model(x), y)
            g = torch.cat([s.flatten() for s in torch.autograd.grad(loss, list(problem.model.parameters()))])
            assert row.loss == pytest.approx(float(loss.detach()), abs=1e-12)
            assert row.gradient_norm == pytest.approx(float(g.norm()), abs=1e-12)
            for i in range(2):
                assert abs(row.eigenvalues[i] - float(values[-1 - i])) <= row.residuals[i] + 1e-12
                assert row.residuals[i] <= 1e-6
            share = float((vectors[:, -2:].mT @ g).square().sum() / (g @ g))
            # eigenvectors are known to residual / gap, and so is a projection
            assert row.overlap == pytest.approx(share, abs=1e-5)
            assert row.stability == pytest.approx(0.5 * float(values[-1]), abs=1e-6)
            assert row.trace is not None
            assert row.trace_stderr is not None
            assert abs(row.trace - float(dense.trace())) <= 5.0 * row.trace_stderr + 1e-9
        step_down(problem, 0.5)
    assert [row.step for row in tracker.rows] == [0, 3, 6]


def test_warm_start_saves_products(problem: Problem) -> None:
    """The same point measured again takes a fraction of the products; after a step of training, fewer as well."""
    tracker = CurvatureTracker(problem, k=2, tol=1e-6, seed=0)
    first, again = tracker.measure(0), tracker.measure(1)
    step_down(problem, 0.01)
    nearby = tracker.measure(2)
    assert again.products <= 0.5 * first.products
    assert nearby.products < first.products
    assert again.eigenvalues == pytest.approx(first.eigenvalues, rel=1e-9)


def test_model_is_as_it_was(problem: Problem) -> None:
    """Parameters, gradients, mode and random state."""
    problem.model.train()
    state = {name: value.clone() for name, value in problem.model.state_dict().items()}
    random = torch.get_rng_state()
    CurvatureTracker(problem).measure(0)
    assert all(torch.equal(value, state[name]) for name, value in problem.model.state_dict().items())
    assert all(p.grad is None for p in problem.model.parameters())
    assert problem.model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_rows_are_written_and_read_back(problem: Problem, tmp_path: Path) -> None:
    """CSV and JSON lines hold the same numbers, to the last bit; an unknown learning rate is empty, or null."""
    tracker = CurvatureTracker(GGNOperator(problem), k=2, seed=0)
    tracker.measure(0)
    tracker.measure(5, learning_rate=0.1)
    with tracker.save(tmp_path / "log.csv").open() as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in tracker.save(tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == [0, 5]
    for row, cells, line in zip(tracker.rows, table, lines, strict=True):
        assert float(cells["eig_1"]) == line["eig_1"] == row.eigenvalues[1]
        assert line["stability"] == row.stability
    assert table[0]["learning_rate"] == ""
    assert lines[0]["stability"] is None
    with pytest.raises(ValueError, match=r"'log.txt' has the suffix '.txt': expected .csv or .jsonl"):
        tracker.save(tmp_path / "log.txt")


def test_state_goes_on(problem: Problem) -> None:
    """A tracker made anew goes on with the rows and the eigenvectors: the next row is bit for bit the other's."""
    one, two = (CurvatureTracker(problem, k=2, seed=seed) for seed in (0, 1))
    one.measure(0)
    two.load_state_dict(one.state_dict())
    step_down(problem, 0.1)
    a, b = one.measure(1).flat(), two.measure(1).flat()
    assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert len(two.rows) == 2
    with pytest.raises(ValueError, match=r"eigenvectors have shape \(2, "):
        CurvatureTracker(problem, k=3).load_state_dict(one.state_dict())


def test_a_gradient_of_zero_has_no_overlap() -> None:
    """Zero data and zero targets: loss 0, no gradient, an overlap that is no number, and null in the file."""
    from curvkit_core import MSELoss

    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    problem = Problem(model, [(torch.eye(2, dtype=F64), torch.zeros(2, 1, dtype=F64))], MSELoss())
    row = CurvatureTracker(problem, seed=0).measure(0)
    assert row.gradient_norm == 0.0
    assert math.isnan(row.overlap)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "hess"}, "kind='hess' is unknown"),
        ({"k": 0}, "k=0 is out of range"),
        ({"every": 0}, "every=0 is out of range"),
        ({"tol": 0.0}, "tol=0.0 is out of range"),
        ({"trace_matvecs": 3}, "trace_matvecs=3 is out of range"),
    ],
)
def test_bad_options_are_named(problem: Problem, options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CurvatureTracker(problem, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="problem is a Sequential: expected a Problem"):
        CurvatureTracker(problem.model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no operator over a problem's parameters"):
        CurvatureTracker(LambdaOperator(lambda v: v, 3))


def test_figure_has_the_limit(problem: Problem) -> None:
    """2 / learning rate is drawn where a learning rate is known."""
    pytest.importorskip("matplotlib")
    tracker = CurvatureTracker(problem, seed=0)
    tracker.measure(0, learning_rate=0.5)
    tracker.measure(1, learning_rate=0.25)
    ax = tracker.figure(title="digits").axes[1]
    (limit,) = [line for line in ax.get_lines() if line.get_label() == "2 / learning rate"]
    assert list(limit.get_ydata()) == [4.0, 8.0]


def test_learning_rates_of_groups_and_schedulers_are_taken(problem: Problem) -> None:
    """Two groups and a scheduler: the largest rate at that step, which bounds the stability of D^(1/2) A D^(1/2)."""
    first, last = problem.model[0], problem.model[2]
    optimizer = torch.optim.SGD([{"params": first.parameters(), "lr": 0.1}, {"params": last.parameters(), "lr": 0.4}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    tracker = CurvatureTracker(problem, every=1, tol=1e-8, seed=0)
    for step in range(3):
        one = tracker(step, optimizer)
        other = tracker.measure(step, scheduler.get_last_lr())
        assert one is not None
        assert one.learning_rate == other.learning_rate == 0.4 * 0.5**step
        optimizer.step()
        scheduler.step()
    rates = torch.cat([torch.full((p.numel(),), 0.1 if p.shape[0] == 5 else 0.4) for p in problem.model.parameters()])
    root = rates.double().sqrt()
    scaled = torch.linalg.eigvalsh(root[:, None] * HessianOperator(problem).to_dense() * root)[-1]
    assert tracker.rows[0].stability is not None
    assert float(scaled) <= tracker.rows[0].stability + 1e-9
    optimizer.param_groups[0]["lr"] = torch.tensor(0.7)  # as a capturable optimizer has it
    assert tracker.measure(3, optimizer).learning_rate == pytest.approx(0.7)


@pytest.mark.parametrize("given", ["fast", [], {"lr": 0.1}, object()])
def test_learning_rates_that_are_none_are_refused(problem: Problem, given: object) -> None:
    """Before anything is computed."""
    tracker = CurvatureTracker(problem, seed=0)
    with pytest.raises((TypeError, ValueError), match="expected a number, several of them, an optimizer, or None"):
        tracker.measure(0, given)  # type: ignore[arg-type]
    assert tracker.rows == []
