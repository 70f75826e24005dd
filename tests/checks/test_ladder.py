"""The three verdicts of a ladder of differences, on functions whose derivative is known."""

from __future__ import annotations

import math

import pytest
import torch
from cases import F64
from torch import Tensor, nn

from curvkit_core.checks.difference_ladder import judge, ladder
from curvkit_core.checks.graph_facts import graph_facts

STEPS = ladder(torch.float32)


def around(truth: float, errors: dict[float, float]) -> object:
    """A difference that is off by a relative error of its own at each step."""
    return lambda step: torch.tensor([truth * (1 + errors.get(step, 0.0))], dtype=F64)


def verdict(product: float, truth: float, errors: dict[float, float] | None = None, rounding: float = 0.0) -> str:
    return judge(torch.tensor([product], dtype=F64), around(truth, errors or {}), STEPS, rounding).verdict


def test_a_step_within_a_percent_shows_a_product_right() -> None:
    """One is enough, whichever of the ladder it is."""
    for step in STEPS:
        others = {s: 9.0 * (i + 1) for i, s in enumerate(STEPS) if s != step}
        assert verdict(1.0, 1.0, others) == "right"


def test_neighbours_that_agree_show_a_product_wrong() -> None:
    """From ten times their agreement on: 10 %."""
    assert verdict(1.0, 1.2) == "wrong"
    assert verdict(1.0, -1.0) == "wrong"
    assert verdict(0.0, 1.0) == "wrong"
    assert verdict(1.0, 1.05) == "right"
    assert verdict(1.0, 1.2, {1e-4: 0.5}) == "wrong"  # 1e-2 and 1e-3 agree
    assert verdict(1.0, 1.2, {1e-3: 0.5}) == "inconclusive"  # 1e-2 and 1e-4 do, and are no neighbours


def test_steps_that_scatter_tell_nothing() -> None:
    assert verdict(1.0, 1.0, {1e-2: 0.3, 1e-3: 0.6, 1e-4: 5.0}) == "inconclusive"
    seen = judge(torch.ones(1), around(1.0, {1e-2: 0.5, 1e-3: 1.0, 1e-4: 4.0}), STEPS, 0.0).seen
    assert seen == "by 50.0% at step 1e-03, 80.0% at step 1e-04, 33.3% at step 1e-02, where no two differences agree"


def test_zero_to_rounding_is_right() -> None:
    """A product of zero against differences that are rounding, and only as large as that."""
    assert verdict(0.0, 1.0, {1e-4: 9.0}, rounding=1e-3) == "right"
    assert verdict(0.0, 1.0, {1e-4: 0.0}, rounding=1e-4) == "wrong"


def test_differences_of_a_sine_are_judged_by_its_cosine() -> None:
    """In float64 and float32, right and wrong by a fifth."""
    for dtype in (torch.float32, F64):
        x = torch.tensor([0.3], dtype=dtype)

        def difference(step: float, x: Tensor = x) -> Tensor:
            return (torch.sin(x + step) - torch.sin(x - step)) / (2 * step)

        for factor, expected in ((1.0, "right"), (1.2, "wrong")):
            product = torch.tensor([factor * math.cos(0.3)], dtype=dtype)
            assert judge(product, difference, ladder(dtype), 0.0).verdict == expected


@pytest.mark.parametrize(
    ("layer", "kink", "jump"),
    [
        (nn.ReLU(), "ReluBackward0", ""),
        (nn.ReLU6(), "HardtanhBackward0", ""),
        (nn.LeakyReLU(), "LeakyReluBackward0", ""),
        (nn.MaxPool1d(2), "SqueezeBackward1", None),
        (nn.Hardswish(), "HardswishBackward0", ""),
        (nn.GELU(), "", ""),
        (nn.SiLU(), "", ""),
        (nn.Softmax(-1), "", ""),
        (nn.Softplus(), "", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_kinks_are_found_in_the_graph(layer: nn.Module, kink: str, jump: str | None) -> None:
    """Only the layer before counts its parameters as before the kink; the one behind is behind."""
    torch.manual_seed(0)
    before, behind = nn.Linear(4, 4), nn.Linear(2 if isinstance(layer, nn.MaxPool1d) else 4, 1)
    out = behind(layer(before(torch.randn(3, 4)))).sum()
    facts = graph_facts([out], torch.float32)
    found = {id(p) for p in (*before.parameters(), *behind.parameters())} & facts.behind
    if jump is None:  # pooling's own node is one of several
        assert "MaxPool" in facts.kink
    else:
        assert (facts.kink, facts.jump) == (kink, jump)
    expected = [*behind.parameters(), *(() if facts.kink else before.parameters())]
    assert found == {id(p) for p in expected}


def test_jumps_and_narrow_numbers_are_found_in_the_graph() -> None:
    x = torch.randn(6, requires_grad=True)
    assert graph_facts([x.topk(2).values.sum()], torch.float32).jump == "TopkBackward0"
    assert graph_facts([x.round().sum()], torch.float32).jump == "RoundBackward0"
    assert graph_facts([x.tanh().sum()], torch.float32).dtype == torch.float32
    assert graph_facts([x.bfloat16().tanh().float().sum()], torch.float32).dtype == torch.bfloat16
    assert graph_facts([torch.ones(())], F64).dtype == F64
