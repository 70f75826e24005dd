"""L15: model, buffers, gradients, modes and random state are bitwise as before, also after an exception."""

from __future__ import annotations

from typing import Any

import pytest
import torch
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
