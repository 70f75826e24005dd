"""Slices of the loss: against the loss itself, and the parabola of a quadratic, which it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvkit_core import CallableLoss, CrossEntropyLoss, HessianOperator, Problem, eigsh, loss_plane, loss_slice
from curvkit_core.landscape import loss_and_gradient

F64 = torch.float64


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = [(torch.randn(n, 3, dtype=F64), torch.randint(3, (n,))) for n in (5, 9)]
    return Problem(model, data, CrossEntropyLoss())


def loss_of(problem: Problem, step: torch.Tensor) -> float:
    """The mean over all data at theta + step, by torch.func."""
    named = problem.parameters.to_named(step)
    values = {name: p.detach() + named[name] for name, p in problem.model.named_parameters()}
    x, y = (torch.cat([batch[i] for batch in problem.batches]) for i in (0, 1))
    return float(nn.functional.cross_entropy(torch.func.functional_call(problem.model, values, (x,)), y))


def test_loss_and_gradient_are_autograds(problem: Problem) -> None:
    """Over all data, batches of different sizes; the model's own .grad stays None."""
    x, y = (torch.cat([batch[i] for batch in problem.batches]) for i in (0, 1))
    loss = nn.functional.cross_entropy(problem.model(x), y)
    value = float(loss.detach())
    slopes = torch.autograd.grad(loss, list(problem.model.parameters()))
    found = loss_and_gradient(problem)
    tol = 1e-13  # 14 rows, numbers below 10
    assert found.loss == pytest.approx(value, abs=tol)
    assert torch.allclose(found.gradient, torch.cat([s.flatten() for s in slopes]), rtol=0.0, atol=tol)
    assert all(p.grad is None for p in problem.model.parameters())


def test_slice_is_the_loss_and_shows_the_eigenvalue(problem: Problem) -> None:
    """Every point against a forward pass of its own; second differences against the eigenvalues, within their error."""
    before = [p.detach().clone() for p in problem.model.parameters()]
    eigen = eigsh(HessianOperator(problem), k=2, tol=1e-10, seed=0)
    found = loss_slice(problem, 3.0 * eigen.eigenvectors, curvatures=eigen.eigenvalues, points=9)
    for i in range(2):
        for t, value in zip(found.steps[i].tolist(), found.losses[i].tolist(), strict=True):
            assert value == pytest.approx(loss_of(problem, t * eigen.eigenvectors[i]), abs=1e-12)
    gap = (found.seen_curvatures - eigen.eigenvalues).abs()
    assert bool((gap <= found.seen_errors).all())
    assert bool((found.seen_errors <= 0.1 * eigen.eigenvalues).all())  # else the check has no power
    assert not bool(((found.seen_curvatures - 1.5 * eigen.eigenvalues).abs() <= found.seen_errors).any())
    assert torch.equal(found.steps[:, 4], torch.zeros(2, dtype=F64))
    assert found.losses[0, 4] == pytest.approx(found.loss, abs=1e-13)
    assert all(torch.equal(p, b) for p, b in zip(problem.model.parameters(), before, strict=True))


def test_curvatures_are_computed_where_none_are_given(problem: Problem) -> None:
    """q^T H q of any direction."""
    torch.manual_seed(1)
    q = torch.randn(problem.parameters.n, dtype=F64)
    dense = HessianOperator(problem).to_dense()
    found = loss_slice(problem, q, points=5)
    assert float(found.curvatures[0]) == pytest.approx(float(q @ dense @ q / (q @ q)), rel=1e-10)


def test_parabola_of_a_quadratic_is_the_loss() -> None:
    """L = sum lambda w^2 / 2: the two curves agree to rounding, as far as one likes."""
    values = torch.tensor([3.0, 1.0, -0.5], dtype=F64)

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=F64))

    loss = CallableLoss(lambda model, batch: 0.5 * (values * model.w**2).sum() * batch[0].mean())
    problem = Problem(Quadratic(), [(torch.ones(4, 1, dtype=F64),)], loss)
    found = loss_slice(problem, torch.eye(3, dtype=F64), radius=5.0)
    tol = 1e-13 * float(found.losses.abs().max())
    assert torch.allclose(found.losses, found.parabola, rtol=0.0, atol=tol)
    assert not torch.allclose(found.losses, found.parabola + 1e-3, rtol=0.0, atol=tol)
    assert torch.allclose(found.curvatures, values, rtol=0.0, atol=1e-13)
    plane = loss_plane(problem, torch.eye(3, dtype=F64)[0], torch.eye(3, dtype=F64)[1], radii=(1.0, 2.0), points=5)
    s, t = plane.first_steps[:, None], plane.second_steps[None]
    exact = 0.5 * (3.0 * (1.0 + s) ** 2 + (t - 2.0) ** 2 - 0.5 * 0.25)
    assert torch.allclose(plane.losses, exact, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"points": 4}, "points=4: expected an odd number"),
        ({"radius": -1.0}, "radius=-1.0: expected positive"),
        ({"curvatures": torch.ones(3)}, r"curvatures have shape \(3,\): expected \(1,\)"),
    ],
)
def test_bad_options_are_named(problem: Problem, options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        loss_slice(problem, torch.ones(problem.parameters.n, dtype=F64), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none of them zero"):
        loss_slice(problem, torch.zeros(problem.parameters.n, dtype=F64))
