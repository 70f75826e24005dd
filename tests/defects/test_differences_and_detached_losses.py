"""Defects seen in other tools, in finite differences, and losses that hide their curvature: X18, X19, X24."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import CASES, relative, shared_convnet, tied_mlp
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import CallableLoss, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError

DIFFERENCES = {"strategy": "finite-difference"}


def direction(op: Any) -> Tensor:
    return op.space.random("gaussian", 0, 0, 1)[0]


def naive_difference(problem: Problem, v: Tensor, h: float = 1e-3) -> Tensor:
    """The defect: (g(theta + h v) - g(theta - h v)) / 2h at the parameters in place, v as it comes."""
    (batch,) = problem.batches

    def gradient() -> Tensor:
        loss = problem.loss.loss_sum(problem.loss.outputs(problem.model, batch), batch) / problem.loss.num_units(batch)
        slopes = torch.autograd.grad(loss, list(problem.model.parameters()), allow_unused=True)
        return problem.parameters.flatten(slopes)

    def displace(step: float) -> None:
        for entry in problem.parameters:
            entry.parameter.data.add_(v[entry.place].view(entry.parameter.shape).to(entry.parameter.dtype), alpha=step)

    displace(h)
    ahead = gradient()
    displace(-2 * h)
    behind = gradient()
    displace(h)
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
@pytest.mark.parametrize("name", list(CASES))
def test_x18_differences_are_as_linear_as_the_step_allows(name: str, kind: Any) -> None:
    """v is not normalised: v'Hv = +12.3 for -19.8 at n = 4.3 million; F(cv) = c F(v), c from 1e-6 to 1e6."""
    op = kind(CASES[name]().problem(), **DIFFERENCES)
    v = direction(op)
    Fv = op @ v
    for c in (1e-6, 1e-3, -1.0, 1e3, 1e6):
        # the same step, to rounding: a difference of gradients carries eps / h of its own, h = 6e-6 |theta|
        assert relative((op @ (c * v)) / c, Fv) <= 1e-8
    assert relative(Fv, kind(CASES[name]().problem()) @ v) <= 1e-6


def test_x18_sees_a_direction_that_is_not_normalised() -> None:
    problem = tied_mlp().problem()
    v = direction(HessianOperator(problem))
    truth = naive_difference(problem, v, 1e-5)
    assert relative(naive_difference(problem, 1e-6 * v) / 1e-6, truth) > 1e-8  # rounding
    assert relative(naive_difference(problem, 1e6 * v) / 1e6, truth) > 0.1  # far out of the neighbourhood


def test_x19_low_precision_parameters_are_displaced_in_a_float32_copy() -> None:
    """bf16 weights are displaced in place, 14-35 % off: here in a float32 copy, within the error that is told."""
    case = shared_convnet()
    model = case.model.to(torch.bfloat16)
    problem = Problem(model, [(case.inputs.bfloat16(), case.targets)], case.loss, preflight="off")
    before = [p.detach().clone() for p in model.parameters()]
    op = HessianOperator(problem, **DIFFERENCES)
    v = direction(op)
    found = op @ v
    twin = shared_convnet().model
    twin.load_state_dict({name: t.double() for name, t in model.state_dict().items()})
    exact = HessianOperator(Problem(twin, [(case.inputs.bfloat16().double(), case.targets)], case.loss)) @ v.double()
    told = float(re.search(r"relative error about (\S+?)\)", op.strategy)[1])
    # eps^(2/3) = 2.4e-5 of float32, times third derivatives and 1 / |theta|; the estimate is one of its size
    assert relative(found, exact) <= 10 * told <= 1e-2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert relative(naive_difference(problem, v / v.norm(), 1e-2) * v.norm(), exact) > 10 * told
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# X24 ---------------------------------------------------------------------------------------------------------------


class ForwardMadeGradient(torch.autograd.Function):
    """Cross-entropy whose gradient is made in the forward pass and kept without a graph of its own."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        p = torch.softmax(logits, 1)
        ctx.save_for_backward((p - functional.one_hot(targets, logits.shape[1])).to(logits))
        return functional.cross_entropy(logits, targets, reduction="sum")

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return slope * gradient.detach(), None


class DetachedLoss:
    """The loss above as a user's adapter, without a closed form."""

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        return (model(batch[0]),)

    def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return ForwardMadeGradient.apply(y[0], batch[1])

    def num_units(self, batch: Any) -> int:
        return len(batch[0])


class HonestLoss(DetachedLoss):
    """The same value with all its derivatives."""

    def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return functional.cross_entropy(y[0], batch[1], reduction="sum")


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_x24_a_loss_that_detaches_its_gradient_is_refused(kind: Any) -> None:
    """A gradient made in the forward pass drops the loss's own curvature in silence: refused, the honest one passes."""
    case = shared_convnet()

    def product(loss: Any, preflight: str = "error") -> Tensor:
        op = kind(Problem(case.model, case.batches((4, 3)), loss, preflight=preflight))
        return op @ direction(op)

    right = product(HonestLoss())
    assert relative(right, kind(case.problem()) @ direction(kind(case.problem()))) <= 1e-12
    with pytest.raises(PreflightError, match="disagrees"):
        product(DetachedLoss())
    assert relative(product(DetachedLoss(), "off"), right) > 0.05  # what would have come out
    op = kind(Problem(case.model, case.batches(), DetachedLoss(), preflight="off"))
    M = op.to_dense()
    assert float((M - M.mT).norm()) <= 1e-12 * float(M.norm() or 1.0)  # symmetric: a symmetry check sees nothing


@pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyOptions"), reason="this torch has no chunked linear_cross_entropy"
)
def test_x24_torchs_chunked_head_is_refused_and_the_plain_one_passes() -> None:
    """linear_cross_entropy with options= inside a network is up to 97 % wrong and raises nothing."""
    torch.manual_seed(0)
    body, head = nn.Linear(4, 6).double(), nn.Linear(6, 5, bias=False).double()
    model = nn.ModuleDict({"body": body, "head": head})
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 5, (8,))

    def product(options: Any, preflight: str = "error") -> Tensor:
        def loss(model: nn.Module, batch: Any) -> Tensor:
            h = torch.tanh(model["body"](batch[0]))
            return functional.linear_cross_entropy(h, model["head"].weight, batch[1], options=options)

        op = HessianOperator(Problem(model, [(inputs, targets)], CallableLoss(loss), preflight=preflight))
        return op @ direction(op)

    def reference(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model["head"](torch.tanh(model["body"](batch[0]))), batch[1])

    op = HessianOperator(Problem(model, [(inputs, targets)], CallableLoss(reference)))
    right = op @ direction(op)
    assert relative(product(None), right) <= 1e-12
    chunked = nn.LinearCrossEntropyOptions()
    assert relative(product(chunked, "off"), right) > 0.05
    with pytest.raises(PreflightError, match="disagrees"):
        product(chunked)
