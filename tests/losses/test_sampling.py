"""Sampled targets: drawn as the model says, and L5: the second moment of their gradients is the loss's own Hessian."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from curvkit_core import BCEWithLogitsLoss, CallableLoss, CrossEntropyLoss, MSELoss
from curvkit_core.losses import SamplesTargets
from curvkit_core.losses.drawing import draw_classes, draw_labels, draw_normal

F64 = torch.float64
TOL = 1e-12  # sums of at most 100 terms of order 1 in float64, times 50


def gradients(loss: Any, z: Tensor, batch: Any, targets: Any) -> Tensor:
    """r_u, a row a unit: (U, numel)."""
    J = torch.autograd.functional.jacobian(lambda y: loss.sampled_losses((y,), batch, targets), z)
    return J.reshape(J.shape[0], -1)


def curvature(loss: Any, z: Tensor, batch: Any) -> Tensor:
    eye = torch.eye(z.numel(), dtype=F64).view(-1, *z.shape)
    return loss.ggn((z,), batch, (eye,))[0].reshape(z.numel(), -1)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 2)])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"weight": torch.tensor([0.5, 2.0, 0.0])}])
@pytest.mark.parametrize("probabilities", [False, True])
def test_cross_entropy_second_moment_is_the_hessian(shape: Any, options: Any, probabilities: bool) -> None:
    """sum_c p_c r(c) r(c)^T over every class of every unit, exactly; with a mass taken twice it is told apart."""
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=F64)
    if probabilities:
        target = torch.rand(shape, dtype=F64)
    else:
        target = torch.randint(0, 3, shape[:1] + shape[2:])
        target.view(-1)[1] = -100
    loss, batch = CrossEntropyLoss(**options), (None, target)
    rows = torch.softmax(z.movedim(1, -1).reshape(-1, 3), dim=1)
    kept = rows if probabilities else rows[target.reshape(-1) != -100]
    moment = torch.zeros(z.numel(), z.numel(), dtype=F64)
    for c in range(3):
        r = gradients(loss, z, batch, torch.full((len(kept),), c))
        assert len(r) == len(kept)
        moment += r.mT @ (kept[:, c, None] * r)
    H = curvature(loss, z, batch)
    assert (moment - H).abs().max() <= TOL
    assert (1.001 * moment - H).abs().max() > TOL


@pytest.mark.parametrize("positive", [None, torch.tensor([1.0, 2.0], dtype=F64)])
def test_bce_second_moment_is_the_hessian(positive: Tensor | None) -> None:
    """Over all 2^D labels of each example with their probabilities, soft data labels and weights included."""
    torch.manual_seed(0)
    z, t = torch.randn(3, 2, dtype=F64), torch.rand(3, 2, dtype=F64)
    loss, batch, p = BCEWithLogitsLoss(pos_weight=positive), (None, t), torch.sigmoid(z)
    moment, untempered = torch.zeros(6, 6, dtype=F64), torch.zeros(6, 6, dtype=F64)
    for labels in itertools.product([0.0, 1.0], repeat=2):
        drawn = torch.tensor(labels, dtype=F64).expand(3, 2)
        probability = (drawn * p + (1 - drawn) * (1 - p)).prod(1)
        r = gradients(loss, z, batch, drawn)
        moment += r.mT @ (probability[:, None] * r)
        plain = torch.autograd.functional.jacobian(
            lambda y, drawn=drawn: loss.unit_losses((y,), (None, drawn)), z
        ).reshape(3, 6)
        untempered += plain.mT @ (probability[:, None] * plain)
    H = curvature(loss, z, batch)
    assert (moment - H).abs().max() <= TOL
    assert (untempered - H).abs().max() > 1e3 * TOL  # the mean over D labels taken for a likelihood


@pytest.mark.parametrize("shape", [(3, 2), (4,), (2, 3, 2)])
def test_mse_second_moment_is_the_hessian(shape: Any) -> None:
    """The points f +- sqrt(D s2) e_d, weighed alike, have the Gaussian's moments to second order: exact here."""
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=F64)
    elements = z[0].numel()
    loss, batch = MSELoss(), (None, torch.randn(shape, dtype=F64))
    one = torch.full((1, 1), 0.8413447460685429, dtype=F64)
    spread = draw_normal(torch.zeros(1, 1, dtype=F64), elements / 2, one).item()
    assert abs(spread - (elements / 2) ** 0.5) <= 1e-12  # Phi(1) = 0.841...
    moment = torch.zeros(z.numel(), z.numel(), dtype=F64)
    for d, sign in itertools.product(range(elements), (-1.0, 1.0)):
        step = torch.zeros(elements, dtype=F64)
        step[d] = sign * elements**0.5 * spread
        r = gradients(loss, z, batch, z + step.view(z[0].shape))
        moment += r.mT @ r / (2 * elements)
    H = curvature(loss, z, batch)
    assert (moment - H).abs().max() <= 10 * TOL
    assert (1.001 * moment - H).abs().max() > 1e3 * TOL


def test_drawn_targets_follow_their_distribution() -> None:
    """On an even grid of M numbers each class is drawn M p times, to within one; the normal's quantiles are its own."""
    torch.manual_seed(0)
    M = 10_000
    grid = (torch.arange(M, dtype=F64) + 0.5) / M
    z = torch.randn(5, dtype=F64)
    counts = torch.bincount(draw_classes(z.expand(M, 5), grid), minlength=5)
    assert (counts - M * torch.softmax(z, 0)).abs().max() <= 1.0
    assert abs(float(draw_labels(z[:1].expand(M, 1), grid[:, None]).sum()) - M * float(torch.sigmoid(z[0]))) <= 1.0
    drawn = draw_normal(torch.full((M, 1), 2.0, dtype=F64), 9.0, grid[:, None])[:, 0]
    assert (torch.special.ndtr((drawn - 2.0) / 3.0) - grid).abs().max() <= 1e-12


def test_impossible_classes_are_never_drawn() -> None:
    """Logits of -inf at the front, between and at the end; numbers as near to 0 and 1 as the hash gives, 1.0 too."""
    inf = float("inf")
    z = torch.tensor([[-inf, 0.0, -inf, 1.0, -inf]]).expand(5, 5)
    u = torch.tensor([2.0**-54, 0.2, 0.5, 1 - 2.0**-53, 1.0], dtype=F64)
    assert draw_classes(z, u).tolist() == [1, 1, 3, 3, 3]
    assert torch.isfinite(draw_normal(torch.zeros(1, 2), 1.0, torch.tensor([[2.0**-54, 1.0]], dtype=F64))).all()
    assert draw_labels(torch.tensor([[inf, -inf]]), torch.tensor([[0.5, 0.5]], dtype=F64)).tolist() == [[1.0, 0.0]]


def test_ignored_rows_take_no_number_and_may_hold_anything() -> None:
    """The adapter asks for as many numbers as units count; NaN in an ignored row stays there."""
    asked = []

    def numbers(units: int, each: int = 1) -> Tensor:
        asked.append((units, each))
        return torch.full((units, each), 0.5, dtype=F64)

    z = torch.randn(4, 3, dtype=F64)
    z[1] = float("nan")
    batch = (None, torch.tensor([0, -100, 2, 1]))
    loss = CrossEntropyLoss()
    targets = loss.sample_targets((z,), batch, numbers)
    r = gradients(loss, z, batch, targets)
    assert asked == [(3, 1)]
    assert torch.isfinite(r).all()
    assert not r.reshape(3, 4, 3)[:, 1].any()
    MSELoss().sample_targets((torch.zeros(5, 2, 3),), (None, None), numbers)
    BCEWithLogitsLoss().sample_targets((torch.zeros(5, 2),), (None, torch.zeros(5, 2)), numbers)
    assert asked[1:] == [(5, 6), (5, 2)]


def test_who_can_draw_targets_is_found_by_isinstance() -> None:
    for loss in (CrossEntropyLoss(), MSELoss(), BCEWithLogitsLoss()):
        assert isinstance(loss, SamplesTargets)
    assert not isinstance(CallableLoss(lambda model, batch: 0), SamplesTargets)
