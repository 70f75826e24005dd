"""The base of token losses: as logits and as a linear head it is core's two cross-entropies, whatever its shape."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from attrs import frozen
from cases import F64, TinyTransformer, head_of, relative
from torch import Tensor, nn

from curvkit_core import (
    CrossEntropyLoss,
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    LinearCrossEntropyLoss,
    Problem,
)
from curvkit_core.kernels import ChunkedLinearCe, Kernels
from curvkit_core.losses import LossAdapter, SamplesTargets, TokenCrossEntropy, UsesKernels
from curvkit_core.losses.protocol import GivesGGN, GivesUnitOuter
from curvkit_core.losses.unit_gradients import outer_by_autograd

TOL = 1e-10  # sums of some hundred terms of order 1 through ten layers are off by 1e-13
KINDS = {
    "hessian": HessianOperator,
    "ggn": GGNOperator,
    "fisher": partial(FisherOperator, num_samples=2, seed=3),
    "empirical-fisher": EmpiricalFisherOperator,
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
as_head = pytest.mark.parametrize("as_head", [False, True], ids=["logits", "head"])


@frozen(eq=False, kw_only=True)
class TokenLoss(TokenCrossEntropy):
    """Of a TinyTransformer, whose batches are (tokens, targets)."""

    as_head: bool = True
    with_bias: bool = False

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        if not self.as_head:
            return (model(batch[0]).movedim(1, -1),)
        weight, _ = head_of(model)
        bias = (weight.new_zeros(weight.shape[0]),) if self.with_bias else ()
        return (model.features(batch[0]), weight, *bias)

    def targets(self, batch: Any) -> Tensor:
        return batch[1]


class CappedTransformer(TinyTransformer):
    """With logits as in Gemma 2 and Cohere."""

    def forward(self, tokens: Tensor) -> Tensor:
        return 1.5 * torch.tanh(0.7 * super().forward(tokens) / 1.5)


def transformer(kind: type[TinyTransformer] = TinyTransformer) -> tuple[nn.Module, list[Any]]:
    """A model and two ragged batches with ignored tails."""
    torch.manual_seed(0)
    model = kind().to(F64)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    tokens = torch.randint(0, 5, (5, 5))
    targets = tokens[:, 1:].clone()
    targets[0, 2:] = targets[3, 1:] = -100
    return model, [(tokens[:3, :-1], targets[:3]), (tokens[3:, :-1], targets[3:])]


def products(kind: Any, model: nn.Module, data: Any, loss: Any, **options: Any) -> Tensor:
    """Three products, on a problem with its checks on."""
    A = kind(Problem(model, data, loss, **options))
    return A.apply(A.space.random("gaussian", 0, 0, 3))


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal to 1e-10, where one wrong by 1e-6 is not."""
    assert relative((1 + 1e-6) * found, expected) > TOL
    return relative(found, expected) <= TOL


@each_kind
@as_head
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}], ids=str)
def test_products_are_those_of_cross_entropy_on_the_logits(kind: Any, as_head: bool, options: dict[str, Any]) -> None:
    model, data = transformer()
    expected = products(kind, model, data, CrossEntropyLoss(**options))
    assert same(products(kind, model, data, TokenLoss(as_head=as_head, **options)), expected)


@each_kind
def test_a_head_of_three_parts_in_chunks_of_a_row(kind: Any) -> None:
    """Hidden states, weight and bias; microbatches; five classes a chunk."""
    model, data = transformer()
    expected = products(kind, model, data, CrossEntropyLoss())
    loss = TokenLoss(with_bias=True, chunk_bytes=100)
    assert same(products(kind, model, data, loss, microbatch_size=2), expected)


@each_kind
def test_caps_and_scales_are_the_heads(kind: Any) -> None:
    """Part of the head; logits that are handed over have them already."""
    model, data = transformer(CappedTransformer)
    expected = products(kind, model, data, CrossEntropyLoss())
    for options in ({"as_head": True}, {"as_head": False}):
        assert same(products(kind, model, data, TokenLoss(softcap=1.5, logit_scale=0.7, **options)), expected)
    assert relative(products(kind, model, data, TokenLoss(softcap=1.5)), expected) > 1e-3


# The protocol -------------------------------------------------------------------------------------------------------


def parts(*, as_head: bool, **options: Any) -> tuple[TokenLoss, Any, tuple[Tensor, ...], Any]:
    """Ours, core's loss on the same rows, the outputs (2, 4, ...), and batches for both."""
    torch.manual_seed(2)
    hidden, weight, bias = torch.randn(2, 4, 3, dtype=F64), torch.randn(5, 3, dtype=F64), torch.randn(5, dtype=F64)
    targets = torch.randint(0, 5, (2, 4))
    targets.view(-1)[[1, 4]] = options.get("ignore_index", -100)
    ours = TokenLoss(**options)
    if as_head:
        return ours, LinearCrossEntropyLoss("", "", **options), (hidden, weight, bias), (None, targets)
    return ours, CrossEntropyLoss(**options), (hidden @ weight.mT + bias,), (None, targets)


def numbers(units: int, each: int = 1) -> Tensor:
    """Uniforms that are the same at each call."""
    return torch.rand(units, each, dtype=F64, generator=torch.Generator().manual_seed(3))


@as_head
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"ignore_index": 0}], ids=str)
def test_sums_units_and_draws_are_core_s(as_head: bool, options: dict[str, Any]) -> None:
    ours, core, y, batch = parts(as_head=as_head, **options)
    z = y if as_head else (y[0].movedim(-1, 1),)
    assert relative(ours.loss_sum(y, batch), core.loss_sum(z, batch)) <= TOL
    assert float(ours.num_units(batch)) == float(core.num_units(batch)) == float((batch[1] != ours.ignore_index).sum())
    assert relative(ours.unit_losses(y, batch), core.unit_losses(z, batch)) <= TOL
    drawn = ours.sample_targets(y, batch, numbers)
    assert torch.equal(drawn, core.sample_targets(z, batch, numbers))
    assert relative(ours.sampled_losses(y, batch, drawn), core.sampled_losses(z, batch, drawn)) <= TOL
    assert relative(ours.sampled_losses(y, batch, 4 - drawn), core.sampled_losses(z, batch, drawn)) > 1e-3


@as_head
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("drawn", [False, True])
def test_outer_products_agree_with_autograd(as_head: bool, rows: int | None, drawn: bool) -> None:
    ours, _, y, batch = parts(as_head=as_head)
    lead = () if rows is None else (rows,)
    dy = tuple(torch.randn(*lead, *t.shape, dtype=F64) for t in y)
    targets = torch.arange(6) % 5 if drawn else None
    losses = (
        partial(ours.sampled_losses, batch=batch, targets=targets) if drawn else partial(ours.unit_losses, batch=batch)
    )
    expected = outer_by_autograd(losses, y, dy if rows else tuple(t[None] for t in dy))
    for found, right in zip(ours.unit_outer(y, batch, dy, targets), expected, strict=True):
        assert same(found, right if rows else right[0])


@as_head
def test_the_gauss_newton_product_is_the_one_at_the_logits(as_head: bool) -> None:
    """K^T H_z K dy by forward and reverse mode, H_z from autograd; keeps the directions' shape."""
    ours, _, y, batch = parts(as_head=as_head)
    dy = tuple(torch.randn(t.shape, dtype=F64) for t in y)

    def logits(*parts: Tensor) -> Tensor:
        return parts[0] @ parts[1].mT + parts[2] if as_head else parts[0]

    z, u = torch.func.jvp(logits, y, dy)
    loss = CrossEntropyLoss()
    curve = torch.func.jvp(torch.func.grad(lambda z: loss.loss_sum((z.movedim(-1, 1),), batch)), (z,), (u,))[1]
    expected = torch.func.vjp(logits, *y)[1](curve)
    for found, right in zip(ours.ggn(y, batch, dy), expected, strict=True):
        assert found.shape == right.shape
        assert same(found, right)
    two = ours.ggn(y, batch, tuple(torch.stack([d, -2.0 * d]) for d in dy))
    for found, right in zip(two, expected, strict=True):
        assert same(found[1], -2.0 * right)


def test_it_is_an_adapter_with_every_ability() -> None:
    assert all(isinstance(TokenLoss(), p) for p in (LossAdapter, GivesGGN, GivesUnitOuter, SamplesTargets, UsesKernels))


def test_the_problems_kernel_is_the_one_that_computes() -> None:
    class Doubling(ChunkedLinearCe):
        def product(self, *args: Any, **kwargs: Any) -> Any:
            return tuple(2 * t for t in super().product(*args, **kwargs))

    model, data = transformer()
    v = torch.ones(sum(p.numel() for p in model.parameters()), dtype=F64)
    one = GGNOperator(Problem(model, data, TokenLoss())) @ v
    two = GGNOperator(Problem(model, data, TokenLoss(), kernels=Kernels(linear_ce=Doubling()), preflight="off")) @ v
    assert relative(two, 2 * one) <= TOL


def test_what_does_not_fit_is_named() -> None:
    model, data = transformer()
    bare = TokenCrossEntropy()
    with pytest.raises(NotImplementedError, match=r"TokenCrossEntropy has no outputs\(model, batch\): a subclass"):
        bare.outputs(model, data[0])
    with pytest.raises(NotImplementedError, match=r"TokenCrossEntropy has no targets\(batch\)"):
        bare.num_units(data[0])
    ours, _, y, (_, targets) = parts(as_head=True)
    with pytest.raises(ValueError, match=r"targets have shape \(2, 3\), outputs \(2, 4, 3\): expected \(2, 4\)"):
        ours.loss_sum(y, (None, targets[:, 1:]))
    with pytest.raises(ValueError, match="softcap=-1"):
        TokenLoss(softcap=-1.0)
