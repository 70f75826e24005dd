"""Cross-entropy from hidden states: every product of a model through it is that of CrossEntropyLoss on the logits."""

from __future__ import annotations

import itertools
from collections import namedtuple
from functools import partial
from typing import Any

import pytest
import torch
from cases import F64, TiedMLP, TinyTransformer, head_of, relative
from torch import Tensor, nn
from torch.nn.utils import parametrize

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
from curvkit_core.losses import LossAdapter, SamplesTargets, UsesKernels
from curvkit_core.losses.build import build_linear_cross_entropy
from curvkit_core.losses.config import LinearCrossEntropyConfig
from curvkit_core.losses.protocol import GivesGGN, GivesUnitOuter
from curvkit_core.losses.unit_gradients import outer_by_autograd

TOL = 1e-10  # the issue's; sums of some hundred terms of order 1 through ten layers are off by 1e-13
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.5, 1.0], dtype=F64)
KINDS = {
    "hessian": HessianOperator,
    "ggn": GGNOperator,
    "fisher": partial(FisherOperator, num_samples=2, seed=3),
    "empirical-fisher": EmpiricalFisherOperator,
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def chunked(body: Any = "features", head: Any = head_of, **options: Any) -> LinearCrossEntropyLoss:
    """Ours, a row or two of five classes in a chunk."""
    return LinearCrossEntropyLoss(body, head, **{"chunk_bytes": 200, **options})


class CappedTransformer(TinyTransformer):
    """With logits as in Gemma 2 and Cohere."""

    def forward(self, tokens: Tensor) -> Tensor:
        return 1.5 * torch.tanh(0.7 * super().forward(tokens) / 1.5)


def transformer(kind: type[TinyTransformer] = TinyTransformer, **options: Any) -> tuple[nn.Module, list[Any]]:
    """A model and two batches, ragged and with ignored tails."""
    torch.manual_seed(0)
    model = kind(**options).to(F64)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    tokens = torch.randint(0, 5, (5, 5))
    targets = tokens[:, 1:].clone()
    targets[0, 2:] = targets[3, 1:] = -100
    return model, [(tokens[:3, :-1], targets[:3]), (tokens[3:, :-1], targets[3:])]


def products(kind: Any, model: nn.Module, data: Any, loss: Any, **options: Any) -> Tensor:
    """Three products, on a problem with its checks on."""
    engine = {k: options.pop(k) for k in ("strategy", "cache") if k in options}
    A = kind(Problem(model, data, loss, **options), **engine)
    return A.apply(A.space.random("gaussian", 0, 0, 3))


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal to 1e-10, where one wrong by 1e-6 is not."""
    assert relative((1 + 1e-6) * found, expected) > TOL
    return relative(found, expected) <= TOL


@each_kind
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2}, {"weight": WEIGHT}, {"weight": WEIGHT, "label_smoothing": 0.1}], ids=str
)
def test_a_tied_transformers_products_are_the_materialised_ones(kind: Any, options: dict[str, Any]) -> None:
    model, data = transformer()
    expected = products(kind, model, data, CrossEntropyLoss(**options))
    assert same(products(kind, model, data, chunked(**options)), expected)


@each_kind
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "engine",
    [
        {"strategy": "reverse", "cache": "keep"},
        {"strategy": "reverse", "cache": "rebuild"},
        {"strategy": "lean"},
        {"params": ["qkv*", "norm*"]},
        {"params": ["embed*", "head*"]},
        {"microbatch_size": 1},
    ],
    ids=str,
)
def test_every_strategy_block_and_cut_agrees(kind: Any, engine: dict[str, Any], tied: bool) -> None:
    """Graphs kept or not, forward mode, the body alone, the head (and the embedding tied to it) alone."""
    model, data = transformer(tied=tied)
    restricted = {k: v for k, v in engine.items() if k == "params"}
    expected = products(kind, model, data, CrossEntropyLoss(), **restricted)
    assert same(products(kind, model, data, chunked(), **engine), expected)


@each_kind
def test_capped_and_scaled_logits_are_part_of_the_head(kind: Any) -> None:
    model, data = transformer(CappedTransformer)
    expected = products(kind, model, data, CrossEntropyLoss())
    assert same(products(kind, model, data, chunked(softcap=1.5, logit_scale=0.7)), expected)
    assert relative(products(kind, model, data, chunked(logit_scale=0.7)), expected) > 1e-3


@each_kind
def test_a_head_with_a_bias_on_plain_rows(kind: Any) -> None:
    """Targets (N,), hidden (N, D), y = (hidden, weight, bias)."""
    torch.manual_seed(1)
    model, x = TiedMLP(outputs=4).to(F64), torch.randn(6, 4, dtype=F64)
    data = [(x, torch.tensor([0, 1, -100, 3, 2, 1]))]
    expected = products(kind, model, data, CrossEntropyLoss())
    assert same(products(kind, model, data, chunked("features", "last")), expected)


@each_kind
def test_parametrised_and_adapted_heads_are_read_at_their_own_parameters(kind: Any) -> None:
    """A weight that is a function of others: by name through torch's parametrisation, by a callable for an adapter."""

    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2.0 * weight + weight**2

    torch.manual_seed(1)
    data = [(torch.randn(6, 4, dtype=F64), torch.tensor([0, 1, -100, 2, 2, 1]))]
    model = TiedMLP().to(F64)
    parametrize.register_parametrization(model.last, "weight", Doubled())
    expected = products(kind, model, data, CrossEntropyLoss())
    assert same(products(kind, model, data, chunked("features", "last")), expected)

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.base = nn.Linear(4, 3), nn.Linear(3, 3, bias=False)
            self.down, self.up = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.body(x))
            return self.base(h) + self.up(self.down(h))

    adapted = Adapted().to(F64)
    loss = chunked(lambda m, x: torch.tanh(m.body(x)), lambda m: m.base.weight + m.up.weight @ m.down.weight)
    expected = products(kind, adapted, data, CrossEntropyLoss())
    assert same(products(kind, adapted, data, loss), expected)


# The protocol -------------------------------------------------------------------------------------------------------


def both(options: dict[str, Any], ignore_index: int = -100) -> tuple[Any, ...]:
    """Ours and the materialised one, with outputs of the same hidden states (2, 4, 3)."""
    torch.manual_seed(2)
    hidden, weight, bias = torch.randn(2, 4, 3, dtype=F64), torch.randn(5, 3, dtype=F64), torch.randn(5, dtype=F64)
    targets = torch.randint(0, 5, (2, 4))
    targets.view(-1)[[1, 4]] = ignore_index
    batch = (None, targets)
    logits = (hidden @ weight.mT + bias).movedim(-1, 1)
    ours = chunked(ignore_index=ignore_index, **options)
    return ours, (hidden, weight, bias), CrossEntropyLoss(ignore_index=ignore_index, **options), (logits,), batch


@pytest.mark.parametrize("ignore_index", [-100, 0])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"weight": WEIGHT, "label_smoothing": 0.2}], ids=str)
def test_sums_units_and_draws_are_those_of_the_logits(options: dict[str, Any], ignore_index: int) -> None:
    """loss_sum, num_units, unit_losses, the drawn classes themselves, sampled_losses."""
    ours, y, plain, z, batch = both(options, ignore_index)
    numbers = lambda units, each=1: torch.rand(  # noqa: E731
        units, each, dtype=F64, generator=torch.Generator().manual_seed(3)
    )
    assert relative(ours.loss_sum(y, batch), plain.loss_sum(z, batch)) <= TOL
    assert float(ours.num_units(batch)) == float(plain.num_units(batch))
    assert relative(ours.unit_losses(y, batch), plain.unit_losses(z, batch)) <= TOL
    drawn = ours.sample_targets(y, batch, numbers)
    assert torch.equal(drawn, plain.sample_targets(z, batch, numbers))
    assert relative(ours.sampled_losses(y, batch, drawn), plain.sampled_losses(z, batch, drawn)) <= TOL
    assert relative(ours.sampled_losses(y, batch, 4 - drawn), plain.sampled_losses(z, batch, drawn)) > 1e-3


@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT, "label_smoothing": 0.2}], ids=str)
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("drawn", [False, True])
def test_outer_products_agree_with_autograd(options: dict[str, Any], rows: int | None, drawn: bool) -> None:
    """sum r <r, dy>: of the data's targets and of drawn ones, for one direction and several."""
    ours, y, _, _, batch = both(options)
    lead = () if rows is None else (rows,)
    dy = tuple(torch.randn(*lead, *t.shape, dtype=F64) for t in y)
    targets = torch.arange(6) % 5 if drawn else None
    losses = (
        partial(ours.sampled_losses, batch=batch, targets=targets) if drawn else partial(ours.unit_losses, batch=batch)
    )
    expected = outer_by_autograd(losses, y, dy if rows else tuple(t[None] for t in dy))
    found = ours.unit_outer(y, batch, dy, targets)
    for f, e in zip(found, expected, strict=True):
        assert same(f, e if rows else e[0])


def test_the_second_moment_of_drawn_gradients_is_the_ggn() -> None:
    """L5 exactly: sum_c p_c r(c) r(c)^T over every class of every unit."""
    ours, y, _, z, batch = both({"weight": WEIGHT, "label_smoothing": 0.2})
    dy = tuple(torch.randn(t.shape, dtype=F64) for t in y)
    p = torch.softmax(z[0].movedim(1, -1).reshape(-1, 5), 1)[batch[1].reshape(-1) != -100]
    moment = [torch.zeros_like(t) for t in y]
    for c, unit in itertools.product(range(5), range(len(p))):
        drawn = torch.full((len(p),), c)
        weigh = partial(_one_unit, ours, batch, drawn, unit)
        for total, part in zip(moment, outer_by_autograd(weigh, y, tuple(t[None] for t in dy)), strict=True):
            total += p[unit, c] * part[0]
    for m, g in zip(moment, ours.ggn(y, batch, dy), strict=True):
        assert same(m, g)


def _one_unit(loss: Any, batch: Any, drawn: Tensor, unit: int, y: Any) -> Tensor:
    return loss.sampled_losses(y, batch, drawn)[unit : unit + 1]


def test_it_is_an_adapter_with_every_ability() -> None:
    loss = chunked()
    assert all(isinstance(loss, p) for p in (LossAdapter, GivesGGN, GivesUnitOuter, SamplesTargets, UsesKernels))


def test_all_targets_ignored_is_zero_over_zero_units() -> None:
    ours, y, _, _, (_, targets) = both({})
    batch = (None, torch.full_like(targets, -100))
    dy = tuple(torch.ones_like(t) for t in y)
    assert float(ours.loss_sum(y, batch)) == float(ours.num_units(batch)) == 0.0
    assert len(ours.unit_losses(y, batch)) == 0
    assert len(ours.sample_targets(y, batch, lambda units, each=1: torch.rand(units, each))) == 0
    assert not any(t.any() for t in (*ours.ggn(y, batch, dy), *ours.unit_outer(y, batch, dy)))


def test_the_problems_kernel_is_the_one_that_computes() -> None:
    class Doubling(ChunkedLinearCe):
        def product(self, *args: Any, **kwargs: Any) -> Any:
            return tuple(2 * t for t in super().product(*args, **kwargs))

    model, data = transformer()
    v = torch.ones(sum(p.numel() for p in model.parameters()), dtype=F64)
    one = GGNOperator(Problem(model, data, chunked())) @ v
    two = GGNOperator(Problem(model, data, chunked(), kernels=Kernels(linear_ce=Doubling()), preflight="off")) @ v
    assert relative(two, 2 * one) <= TOL


def test_bodies_and_heads_by_name_and_by_function() -> None:
    """A submodule, a method, a function of the model; tensors and objects with last_hidden_state."""
    Out = namedtuple("Out", "last_hidden_state")

    class Trunk(nn.Linear):
        def forward(self, ids: Tensor) -> Any:
            return Out(super().forward(ids))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.lm_head = Trunk(3, 2), nn.Linear(2, 4)

        def features(self, ids: Tensor) -> Tensor:
            return self.trunk(ids).last_hidden_state

    model, ids, labels = Net(), torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
    for body in ("trunk", "features", Net.features, lambda m, ids: m.trunk(ids)):
        for batch in ((ids, labels), {"ids": ids, "labels": labels}):
            hidden, weight, bias = LinearCrossEntropyLoss(body, "lm_head").outputs(model, batch)
            assert torch.equal(hidden, model.features(ids))
            assert weight is model.lm_head.weight
            assert bias is model.lm_head.bias
    assert len(LinearCrossEntropyLoss("features", lambda m: m.lm_head.weight).outputs(model, (ids, labels))) == 2


def test_what_is_no_body_and_no_head_is_named() -> None:
    model, data = transformer()
    with pytest.raises(ValueError, match="body='trunk': .*no attribute 'trunk'.*TinyTransformer has the submodules em"):
        chunked("trunk", "embed").outputs(model, data[0])
    with pytest.raises(TypeError, match="head='norm' is a LayerNorm, whose forward is its own.*Pass a callable head"):
        chunked("features", "norm").outputs(model, data[0])
    with pytest.raises(TypeError, match="gave a tuple: expected the hidden states"):
        chunked(lambda model, tokens: (tokens, tokens), "embed").outputs(model, data[0])
    with pytest.raises(ValueError, match=r"targets \(2, 4, 5\) \(float32\): expected targets \(2, 4\) of integers"):
        ours, y, _, _, _ = both({})
        ours.loss_sum(y, (None, torch.rand(2, 4, 5)))
    with pytest.raises(ValueError, match="softcap=-1"):
        chunked(softcap=-1.0)


def test_a_run_files_options_make_the_adapter() -> None:
    config = LinearCrossEntropyConfig(body="model", head="lm_head", weight=(1.0, 2.0), softcap=30.0, logit_scale=0.5)
    loss = build_linear_cross_entropy(config)
    assert (loss.body, loss.head, loss.softcap, loss.logit_scale) == ("model", "lm_head", 30.0, 0.5)
    assert loss.weight.tolist() == [1.0, 2.0]
