"""A loss that binds to its model: once a problem, with one microbatch, and whatever it does the model is as it was."""

from __future__ import annotations

from typing import Any, Self

import pytest
import torch
from attrs import Factory, evolve, frozen
from cases import F64, relative
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from curvkit_core import GGNOperator, HessianOperator, MSELoss, Problem, eigsh
from curvkit_core.kernels import Kernels
from curvkit_core.losses import BindsToModel
from curvkit_core.losses.protocol import Outputs


@frozen(eq=False, kw_only=True)
class Binding:
    """Squared error; writes down each binding, and what it saw then."""

    seen: list[Any] = Factory(list)
    bound: bool = False
    kernels: Kernels = Factory(Kernels)
    breaks: bool = False

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        assert self.bound, "a product was made with a loss that the problem has not bound"
        return MSELoss().outputs(model, batch)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        return MSELoss().loss_sum(y, batch)

    def num_units(self, batch: Any) -> int:
        return MSELoss().num_units(batch)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        self.seen.append((model, batch, model.training, torch.is_grad_enabled()))
        model(batch[0])
        torch.rand(3)
        if self.breaks:
            msg = "this model has no head"
            raise ValueError(msg)
        return evolve(self, bound=True), ("no head was found",)

    def with_kernels(self, kernels: Kernels) -> Self:
        return evolve(self, kernels=kernels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).to(F64)


def data(rows: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(rows, n, dtype=F64, generator=generator) for n in (3, 1))
    return [(x[: rows // 2], y[: rows // 2]), (x[rows // 2 :], y[rows // 2 :])]


def test_a_plain_loss_does_not_bind_and_this_one_does() -> None:
    assert isinstance(Binding(), BindsToModel)
    assert not isinstance(MSELoss(), BindsToModel)


def test_it_is_bound_once_with_the_first_microbatch_without_gradients() -> None:
    """However many operators and products: one bind, in the problem's mode."""
    model, loss, batches = network().train(), Binding(), data()
    problem = Problem(model, batches, loss, microbatch_size=2)
    assert not loss.seen
    for kind in (GGNOperator, HessianOperator):
        A = kind(problem)
        reference = kind(Problem(model, batches, MSELoss()))
        v = torch.ones(A.n, dtype=F64)
        assert relative(A @ v, reference @ v) <= 1e-12
    ((seen_model, batch, training, grad),) = loss.seen
    assert seen_model is model
    assert torch.equal(batch[0], batches[0][0][:2])
    assert (training, grad) == (False, False)
    assert problem.loss is problem.loss
    assert problem.loss.bound


def test_the_model_and_the_random_state_are_as_they_were() -> None:
    """A shuffling loader draws as soon as it is asked for a batch, and the bind draws too."""
    model = network()
    x, y = (torch.cat(part) for part in zip(*data(), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=2, shuffle=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    problem = Problem(model, loader, Binding())
    assert problem.loss.bound
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_bind_that_fails_leaves_the_model_too_and_says_why() -> None:
    model, state = network().train(), torch.get_rng_state()
    with pytest.raises(ValueError, match="this model has no head"):
        GGNOperator(Problem(model, data(), Binding(breaks=True)))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_blocks_and_other_data_share_what_was_bound() -> None:
    loss = Binding()
    problem = Problem(network(), data(), loss)
    block = problem.restrict("3.*")
    assert block.loss is problem.loss
    assert problem.on_batches(data(4)).loss is problem.loss
    assert len(loss.seen) == 1


def test_other_kernels_are_bound_anew() -> None:
    """They are the loss's own, and what was bound before has none of them."""
    loss, kernels = Binding(), Kernels(ce_hvp=lambda z, w, u: u)
    problem = Problem(network(), data(), loss)
    assert problem.loss.kernels == Kernels()
    twin = problem.equipped(kernels=kernels)
    assert twin.loss.kernels == kernels
    assert twin.loss.bound
    assert len(loss.seen) == 2


def test_no_data_binds_nothing() -> None:
    """The first product says that there is none."""
    loss = Binding()
    problem = Problem(network(), [], loss)
    assert not problem.loss.bound
    with pytest.raises(ValueError, match="gave no batches"):
        GGNOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)
    assert not loss.seen


def test_notes_are_in_every_results_record() -> None:
    """Once; on other data with the same bound loss too."""
    problem = Problem(network(), data(), Binding())
    assert problem.history.findings == []
    found = eigsh(GGNOperator(problem), k=1, seed=0)
    assert found.info.findings.count("no head was found") == 1
    elsewhere = eigsh(GGNOperator(problem.on_batches(data(4))), k=1, seed=0)
    assert elsewhere.info.findings.count("no head was found") == 1
