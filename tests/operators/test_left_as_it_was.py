"""L15: model, buffers, gradients, modes and random state are bitwise as before, also after an exception."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
import torch.utils.checkpoint
from cases import CASES
from torch import Tensor, nn

from curvkit_core import CallableLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem


class Snapshot:
    """What may not change: objects, storage, values, flags."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.objects = [(name, id(t), t.data_ptr()) for name, t in self._tensors()]
        self.values = [t.detach().clone() for _, t in self._tensors()]
        self.grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.flags = [m.training for m in model.modules()]
        self.requires = [p.requires_grad for p in model.parameters()]
        self.random = torch.get_rng_state()

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.model.named_parameters(remove_duplicate=False), *self.model.named_buffers(remove_duplicate=False)]

    def assert_same(self) -> None:
        assert self.objects == [(name, id(t), t.data_ptr()) for name, t in self._tensors()]
        assert all(torch.equal(a, b) for a, (_, b) in zip(self.values, self._tensors(), strict=True))
        for before, p in zip(self.grads, self.model.parameters(), strict=True):
            assert p.grad is None if before is None else torch.equal(before, p.grad)
        assert self.flags == [m.training for m in self.model.modules()]
        assert self.requires == [p.requires_grad for p in self.model.parameters()]
        assert torch.equal(self.random, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["eval", "train", "as-is"])
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
def test_a_product_leaves_the_model_alone(kind: Any, mode: str) -> None:
    """BatchNorm's statistics, gradients, a mix of modes, the random state."""
    case = CASES["tied-mlp"]()
    model = case.model.train()
    model.first.eval()
    model.last.weight.grad = torch.ones_like(model.last.weight)
    operator = kind(case.problem(mode=mode))
    snapshot = Snapshot(model)
    product = operator @ operator.space.random("gaussian", 0, 0, 1)[0]
    snapshot.assert_same()
    assert product.isfinite().all()


def test_the_snapshot_sees_a_batchnorm_that_moves() -> None:
    """Negative control: a forward in train mode is seen."""
    case = CASES["tied-mlp"]()
    snapshot = Snapshot(case.model.train())
    case.model(case.inputs)
    with pytest.raises(AssertionError):
        snapshot.assert_same()


def test_an_exception_leaves_the_model_alone() -> None:
    """A loss that raises in the second batch."""
    case = CASES["tied-mlp"]()
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        torch.rand(3)
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("boom")
        return model(batch[0]).square().mean()

    problem = Problem(case.model.train(), case.batches((5, 8)), CallableLoss(loss), preflight="off")
    operator = HessianOperator(problem, cache="rebuild")
    snapshot = Snapshot(case.model)
    v = torch.ones(operator.n, dtype=operator.dtype)
    operator @ v  # one forward a batch
    with pytest.raises(RuntimeError, match="boom"):
        operator @ v
    snapshot.assert_same()


class Attributes(nn.Module):
    """A forward that counts, keeps an activation, and replaces a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.calls, self.label, self.last, self.seen = 0, "new", None, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.label = "used"
        self.extra = x
        self.last = torch.tanh(self.layer(x))
        return self.last


def reparametrised(name: str) -> nn.Module:
    layer = nn.Linear(4, 3)
    if name == "pruned":
        return nn.utils.prune.l1_unstructured(layer, "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, for parametrizations
        return {"weight-norm": nn.utils.weight_norm, "spectral-norm": nn.utils.spectral_norm}[name](layer)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
@pytest.mark.parametrize("name", ["attributes", "pruned", "weight-norm", "spectral-norm"])
def test_tensors_and_numbers_that_a_forward_sets_are_put_back(name: str, kind: Any) -> None:
    """The same objects after a product, probed at displaced parameters, and after one that raises.

    A pruned layer's weight is set by every forward: it would be a probe's, some 1e-6 off the parameter's, with a graph.
    """
    torch.manual_seed(0)
    model = (Attributes() if name == "attributes" else reparametrised(name)).double()
    x, t = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    model(x)  # as a user would have: layers have their weights, the counter stands at one
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    problem = Problem(model, [(x, t)], nn.MSELoss())
    operator = kind(problem)
    v = operator.space.random("gaussian", 0, 0, 1)[0]
    first = operator @ v
    assert vars(model).keys() >= before.keys()
    assert all(vars(model)[key] is value for key, value in before.items())
    assert {key for key in vars(model) if not key.startswith("_")} == before.keys()
    assert torch.equal(operator @ v, first)
    if kind is GGNOperator:
        assert "kept graphs of 1 of 1" in operator.strategy
        assert problem.history.kept_graphs.changes == 0  # what a forward has set is no change of the model
    broken = Problem(model, [(x, t[:, :2])], nn.MSELoss())
    with pytest.raises(ValueError, match="expected equal shapes"):
        kind(broken) @ v
    assert all(vars(model)[key] is value for key, value in before.items())


def test_buffers_shared_by_two_modules_stay_shared_during_a_product() -> None:
    """A forward that writes one and reads the other sees its own write."""

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.inner = nn.Module()
            self.register_buffer("count", torch.zeros((), dtype=torch.float64))
            self.inner.register_buffer("count", self.count)

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1.0)
            return (self.weight * x).square() * self.inner.count

    model = Counter()
    loss = CallableLoss(lambda m, b: m(b).sum(-1).mean())
    H = HessianOperator(Problem(model, [torch.ones(1, 2, dtype=torch.float64)], loss, preflight="off"))
    assert torch.equal(H.to_dense(block=1), 2 * torch.eye(2, dtype=torch.float64))
    assert float(model.count) == 0.0


def test_checkpointed_models_recompute_with_the_swapped_values() -> None:
    """Where functional_call is wrong: the recompute in the backward reads what was swapped in, so both agree."""
    case = CASES["tied-mlp"]()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = case.model

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)

    plain = HessianOperator(case.problem())
    again = HessianOperator(Problem(Checkpointed(), case.batches(), case.loss))
    v = plain.space.random("gaussian", 0, 0, 1)[0]
    assert torch.allclose(plain @ v, again @ v, rtol=0, atol=1e-12)


def test_recurrent_modules_use_the_swapped_weights() -> None:
    """An LSTM keeps a second list of its weights."""
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    model = Recurrent().double()
    x, t = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    H = HessianOperator(Problem(model, [(x, t)], nn.MSELoss()))
    params = list(model.parameters())
    weights = model.lstm._flat_weights
    grads = torch.autograd.grad(nn.functional.mse_loss(model(x), t), params, create_graph=True)
    v = H.space.random("gaussian", 0, 0, 1)[0]
    pieces = [piece.view(p.shape) for piece, p in zip(v.split([p.numel() for p in params]), params, strict=True)]
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(grads, params, pieces)])
    assert torch.allclose(H @ v, expected, rtol=0, atol=1e-12)
    assert all(a is b for a, b in zip(model.lstm._flat_weights, weights, strict=True))
