"""What torch has no second derivative of, or a wrong one: weight norms, bags of embeddings, compiled parts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import F64, relative
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from curvkit_core import ActivationOperator, CrossEntropyLoss, GGNOperator, HessianOperator, Problem
from curvkit_core.linearize.twice_differentiable import twice_differentiable

X, TARGETS = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
TOL = 1e-12  # sums of some hundred terms of order 1 in float64, times 100


def dense(logits_of: Callable[[Tensor], Tensor], flat: Tensor) -> tuple[Tensor, Tensor]:
    """Hessian and Gauss-Newton matrix of the mean cross-entropy, from the logits as a function of flat parameters."""
    H = torch.func.hessian(lambda theta: functional.cross_entropy(logits_of(theta), TARGETS))(flat)
    J, p = torch.func.jacrev(logits_of)(flat), torch.softmax(logits_of(flat), 1)
    return H, (J.mT @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ J).mean(0)


def agree(model: nn.Module, inputs: Tensor, logits_of: Callable[[Tensor], Tensor]) -> None:
    """Every strategy, with the checks on, and a matrix wrong by 1e-3 is told apart."""
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert relative(logits_of(flat), model(inputs).detach()) <= TOL
    H, G = dense(logits_of, flat)
    for options in ({}, {"strategy": "lean"}, {"strategy": "reverse", "cache": "rebuild"}):
        problem = Problem(model, [(inputs, TARGETS)], CrossEntropyLoss())
        for operator, expected in ((HessianOperator, H), (GGNOperator, G)):
            found = operator(problem, **options).to_dense()
            assert relative(found, expected) <= TOL
            assert relative(1.001 * found, expected) > TOL
        assert problem.history.findings == []


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("old", [False, True])
def test_weight_norms_have_their_second_derivative(dim: int | None, old: bool) -> None:
    """w = g v / |v|, the norm over all axes but one, or over all; as a parametrization and as the hook before it."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, for parametrizations
        layer = (nn.utils.weight_norm if old else parametrizations.weight_norm)(layer, dim=dim)
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3)).to(F64)
    shapes = [p.shape for p in model.parameters()]

    def logits_of(flat: Tensor) -> Tensor:
        parts = flat.split([s.numel() for s in shapes])
        bias, g, v, last, last_bias = (part.view(s) for part, s in zip(parts, shapes, strict=True))
        norm = v.square().sum() if dim is None else v.square().sum(1 - dim, keepdim=True)
        return torch.tanh(X @ (v * g / norm.sqrt()).mT + bias) @ last.mT + last_bias

    agree(model, X, logits_of)


BAGS = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 2], [0, 0]])


class Bagged(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table, self.last = nn.EmbeddingBag(4, 2, **options), nn.Linear(2, 3)

    def forward(self, indices: Tensor) -> Tensor:
        return self.last(torch.tanh(self.table(indices)))


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_embeddings_have_derivatives(mode: str, padding: int | None) -> None:
    """Their entries one by one, in Python."""
    torch.manual_seed(0)
    model = Bagged(mode=mode, padding_idx=padding).to(F64)

    entries = BAGS.tolist()

    def bag(table: Tensor, indices: list[int]) -> Tensor:
        rows = [table[i] for i in indices if i != padding]
        if not rows:
            return torch.zeros(2, dtype=F64)
        stacked = torch.stack(rows)
        return stacked.amax(0) if mode == "max" else stacked.sum(0) / (len(rows) if mode == "mean" else 1)

    def logits_of(flat: Tensor) -> Tensor:
        table, weight, bias = flat[:8].view(4, 2), flat[8:14].view(3, 2), flat[14:]
        pooled = torch.stack([bag(table, indices) for indices in entries])
        return torch.tanh(pooled) @ weight.mT + bias

    agree(model, BAGS, logits_of)


SHAPES = {
    "rows": {"input": BAGS},
    "offsets": {"input": BAGS.flatten(), "offsets": torch.tensor([0, 2, 2, 5])},
    "last offset": {"input": BAGS.flatten(), "offsets": torch.tensor([0, 3, 3, 10]), "include_last_offset": True},
    "nothing": {"input": BAGS[:0].flatten(), "offsets": torch.tensor([0, 0])},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_bags_are_torchs_own_in_value(shape: str) -> None:
    """Rows and offsets, bags with nothing in them, padding from either end, factors of each entry."""
    given = SHAPES[shape]
    weight = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    factors = torch.linspace(-1.0, 2.0, given["input"].numel(), dtype=F64).view(given["input"].shape)
    options: list[dict[str, Any]] = [
        {"mode": mode, "padding_idx": padding}
        for mode, padding in itertools.product(("sum", "mean", "max"), (None, 0, -1))
    ]
    for option in (*options, {"mode": "sum", "per_sample_weights": factors}):
        expected = functional.embedding_bag(weight=weight, **given, **option)
        with twice_differentiable(Bagged()):
            found = functional.embedding_bag(weight=weight, **given, **option)
        assert torch.allclose(found, expected, rtol=0, atol=1e-14)


class Encoder(nn.Module):
    """torch's own layers, with padding: in eval mode and without gradients they run on nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, activation="gelu")
        self.layers, self.last = nn.TransformerEncoder(layer, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        h = self.layers(x, src_key_padding_mask=padding)
        return self.last(h.masked_fill(padding[..., None], 0.0).sum(1))


def test_transformer_layers_have_forward_derivatives() -> None:
    """Lean products are those of reverse mode; an activation has a shape; the user's own choice of path stays."""
    torch.manual_seed(0)
    model, padding = Encoder().to(F64), torch.zeros(5, 3, dtype=torch.bool)
    padding[0, 2] = True
    batch = (torch.randn(5, 3, 4, dtype=F64), padding, TARGETS)
    expected = GGNOperator(Problem(model, [batch], CrossEntropyLoss()), strategy="reverse").to_dense()
    lean = GGNOperator(Problem(model, [batch], CrossEntropyLoss()), strategy="lean")
    found = lean.to_dense()
    assert relative(found, expected) <= TOL
    assert relative(1.001 * found, expected) > TOL
    inside = ActivationOperator(Problem(model, [batch], CrossEntropyLoss()), "layers.layers.0", kind="ggn")
    assert inside.shapes == (torch.Size([5, 3, 4]),)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="the target at"):
        GGNOperator(Problem(model, [(*batch[:2], TARGETS + 1)], CrossEntropyLoss()), strategy="lean").to_dense()
    assert torch.backends.mha.get_fastpath_enabled()


def test_models_without_such_parts_are_spared() -> None:
    """Nothing stands between Python and torch there."""
    with twice_differentiable(nn.Sequential(nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 2))):
        assert torch.overrides._get_current_function_mode() is None
    with twice_differentiable(Bagged()):
        assert torch.overrides._get_current_function_mode() is not None
    assert torch.overrides._get_current_function_mode() is None


def test_compiled_parts_run_as_they_were_written_and_stay_compiled() -> None:
    """aot_autograd has no double backward: a submodule, a forward, a module compiled in place; nothing is compiled."""
    import torch._dynamo

    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).to(F64)
    data = [(X, TARGETS)]
    expected = {
        kind: kind(Problem(plain, data, CrossEntropyLoss())).to_dense() for kind in (HessianOperator, GGNOperator)
    }

    class Whole(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x)

    inside, by_forward, in_place = Whole(torch.compile(plain, backend=backend)), Whole(plain), Whole(plain)
    by_forward.forward = torch.compile(by_forward.forward, backend=backend)
    in_place.compile(backend=backend)
    for model in (inside, by_forward, in_place):
        for kind, matrix in expected.items():
            found = kind(Problem(model, data, CrossEntropyLoss())).to_dense()
            assert relative(found, matrix) <= TOL
        assert compiled == []
        model(X)
        assert compiled == [1]  # afterwards it is compiled as before
        compiled.clear()
        torch._dynamo.reset()
