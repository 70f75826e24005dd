"""A parameter that reaches the loss past the model would be left out of the curvature: it is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, relative
from torch import Tensor, nn

from curvkit_core import CallableLoss, CrossEntropyLoss, GGNOperator, HessianOperator, MSELoss, Problem
from curvkit_core.checks import PreflightError, PreflightWarning

X, T = torch.ones(4, 3, dtype=F64), torch.zeros(4, 2, dtype=F64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).to(F64)


def penalised(parameters_of: Any) -> CallableLoss:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        penalty = sum(p.square().sum() for p in parameters_of(model))
        return (model(batch[0]) - batch[1]).square().mean() + 0.1 * penalty

    return CallableLoss(loss)


def test_a_penalty_over_parameters_listed_before_is_refused() -> None:
    """Read from the model at each call it adds 0.2 to the diagonal; from a list made before it would add nothing."""
    model = network()
    plain = HessianOperator(Problem(model, [(X, T)], MSELoss())).to_dense()
    found = HessianOperator(Problem(model, [(X, T)], penalised(lambda m: m.parameters()))).to_dense()
    assert relative(found, plain + 0.2 * torch.eye(len(plain), dtype=F64)) <= 1e-12
    before = list(model.parameters())
    text = r"\[parameter-captured\] the loss reads parameter '0.weight' and 3 more past the model"
    with pytest.raises(PreflightError, match=text):
        HessianOperator(Problem(model, [(X, T)], penalised(lambda m: before))).to_dense()
    with pytest.warns(PreflightWarning, match=text):
        HessianOperator(Problem(model, [(X, T)], penalised(lambda m: before), preflight="warn")).to_dense()


def test_one_that_is_not_differentiated_is_a_constant() -> None:
    """The same penalty, with respect to another layer: right, and no finding."""
    model = network()
    problem = Problem(model, [(X, T)], penalised(lambda m: [model[0].weight]), params="2")
    expected = HessianOperator(Problem(model, [(X, T)], MSELoss(), params="2")).to_dense()
    assert relative(HessianOperator(problem).to_dense(), expected) <= 1e-12
    assert problem.history.findings == []


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_a_module_with_a_list_of_its_own_is_refused(kind: Any) -> None:
    class Listing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.weights = [self.layer.weight]

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weights[0].mT + self.layer.bias

    problem = Problem(Listing().to(F64), [(X, torch.tensor([0, 1, 0, 1]))], CrossEntropyLoss())
    with pytest.raises(PreflightError, match=r"reads parameter 'layer.weight' past the model, from a list"):
        kind(problem).to_dense()


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_a_loss_that_depends_on_none_of_the_parameters_is_told(kind: Any) -> None:
    """Zeros are right, and most likely not what was meant."""

    class Unused(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.spare = nn.Parameter(torch.ones(5))

    model = Unused().to(F64)
    text = "the loss depends on none of the chosen parameters: its curvature in them is zero."
    problem = Problem(model, [(X, T)], MSELoss(), params="spare")
    assert not kind(problem).to_dense().any()
    assert problem.history.findings == [text]
    both = Problem(model, [(X, T)], MSELoss())
    assert kind(both).to_dense().any()
    assert both.history.findings == []
