"""What is shown wrong is refused by code, with the batch and the mend; each with its negative control."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cases import CASES, relative, tied_mlp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from curvkit_core import CallableLoss, CrossEntropyLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import CODES, Finding, PreflightError, PreflightWarning

KINDS = [HessianOperator, GGNOperator, EmpiricalFisherOperator]


def dropout_problem(mode: str, preflight: str = "error") -> Problem:
    case = tied_mlp()
    model = nn.Sequential(case.model, nn.Dropout(0.5))
    return Problem(model, case.batches((8, 5)), case.loss, mode=mode, preflight=preflight)


def product(problem: Problem, kind: type = GGNOperator) -> torch.Tensor:
    operator = kind(problem)
    return operator @ operator.space.random("gaussian", 0, 0, 1)[0]


@pytest.mark.parametrize("strategy", ["auto", "lean", "finite-difference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(CASES))
def test_what_is_right_passes_without_a_word(name: str, kind: type, strategy: str) -> None:
    """Every family of models, cut into batches; smooth and in float64, nothing is inconclusive either."""
    case = CASES[name]()
    rows = len(case.inputs)
    problem = case.problem((rows - 2, 2))
    operator = kind(problem, strategy=strategy)
    v = operator.space.random("gaussian", 0, 0, 1)[0]
    first = operator @ v
    assert relative(operator @ v, first) <= 1e-12
    assert problem.history.findings == []


def test_dropout_left_on_is_found() -> None:
    """X10: two forwards differ; in eval mode all is well."""
    with pytest.raises(PreflightError, match=r"\[forward-not-repeatable\] two forward passes of batch 0 differ by"):
        product(dropout_problem("train"))
    assert product(dropout_problem("eval")).isfinite().all()


def test_warn_goes_on_and_remembers_and_off_is_silent() -> None:
    problem = dropout_problem("train", "warn")
    with pytest.warns(PreflightWarning, match="forward-not-repeatable"):
        product(problem)
    assert len(problem.history.findings) == 1
    product(problem)
    assert len(problem.history.findings) == 1
    product(dropout_problem("train", "off"))


def test_a_non_finite_loss_names_its_batch() -> None:
    case = tied_mlp()
    batches = case.batches((5, 4, 4))
    batches[1][0][2, 0] = float("inf")
    case.model.first.weight.data[0, 0] = 0.0
    with pytest.raises(PreflightError, match=r"\[loss-not-finite\] the loss of batch 1 is nan"):
        product(Problem(case.model, batches, case.loss))
    assert product(Problem(case.model, [batches[0], batches[2]], case.loss)).isfinite().all()


def test_a_non_finite_product_names_its_batch_and_parameter() -> None:
    """The second batch's loss takes the root of a norm that is zero: finite, its second derivative is not."""
    case = tied_mlp()
    with torch.no_grad():
        case.model.last.bias.zero_()

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rooted = (model.last.bias * 0.0).sum().abs().sqrt() if len(batch[0]) == 4 else 0.0
        return rooted + model(batch[0]).square().mean()

    with pytest.raises(PreflightError, match=r"\[product-not-finite\] .*batch 1 .*first in parameter 'last.bias'"):
        product(Problem(case.model, case.batches((9, 4)), CallableLoss(loss)), HessianOperator)
    assert product(Problem(case.model, case.batches((8, 5)), CallableLoss(loss)), HessianOperator).isfinite().all()


def test_a_vector_that_is_not_finite_is_not_the_products_fault() -> None:
    operator = HessianOperator(tied_mlp().problem())
    v = torch.ones(operator.n, dtype=operator.dtype)
    v[0] = float("inf")
    assert not (operator @ v).isfinite().all()


def test_each_kind_is_probed_once_and_parts_of_what_was_probed_are_not() -> None:
    """Forwards are counted: after a kind's first product, a product costs one a batch."""
    calls = []
    case = tied_mlp()

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return model(batch[0]).square().mean()

    def forwards(operator: HessianOperator) -> int:
        calls.clear()
        operator @ torch.ones(operator.n, dtype=operator.dtype)
        return len(calls)

    problem = Problem(case.model, case.batches((8, 5)), CallableLoss(loss))
    block = HessianOperator(problem.restrict("first"), cache="rebuild")
    whole = HessianOperator(problem, cache="rebuild")
    assert forwards(block) > 2
    assert forwards(block) == 2
    assert forwards(whole) > 2
    assert forwards(whole) == 2
    assert forwards(HessianOperator(problem.restrict("last"), cache="rebuild")) == 2
    assert forwards(HessianOperator(problem, strategy="reverse", cache="rebuild")) > 2


class Deep(nn.Module):
    """Matrix products alone count; with a ripple that no derivative sees, differences at no two steps agree."""

    def __init__(self, ripple: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())))
        self.ripple = ripple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return y + self.ripple * torch.sin(3e5 * y.detach())


@pytest.mark.parametrize("ripple", [0.0, 0.1])
@pytest.mark.parametrize("strategy", ["reverse", "lean"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_costs_at_most_twelve_gradients(kind: type, strategy: str, ripple: float) -> None:
    """Floating-point operations of matrix products, which the tool counts, against a gradient of the same rows."""
    model = Deep(ripple)
    batch = (torch.randn(16, 64), torch.randint(0, 64, (16,)))

    def flops(preflight: str) -> int:
        problem = Problem(model, [batch], nn.CrossEntropyLoss(), preflight=preflight)
        operator = kind(problem, strategy=strategy)
        v = torch.ones(operator.n)
        with FlopCounterMode(display=False) as counter:
            operator @ v
        climbed = "where no two differences agree" in str(problem.history.findings)
        assert climbed == (preflight == "error" and ripple > 0.0)
        return counter.get_total_flops()

    inputs = batch[0].clone().requires_grad_()  # so that the first layer costs what the others do
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(model(inputs), batch[1]).backward()
    gradients = (flops("error") - flops("off")) / counter.get_total_flops()
    assert 2.0 < gradients <= 12.0


def test_a_large_microbatch_is_cut_and_one_whose_size_is_built_in_is_not() -> None:
    """The probe sees 16 rows of 40; a model that takes 40 only is probed on 40."""
    seen: list[int] = []

    class Sized(nn.Module):
        def __init__(self, only: int | None) -> None:
            super().__init__()
            self.body = tied_mlp().model
            self.only = only

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.only in (None, len(x))
            seen.append(len(x))
            return self.body(x)

    case = tied_mlp(examples=40)
    for only, expected in ((None, {16, 40}), (40, {40})):
        seen.clear()
        product(Problem(Sized(only), case.batches(), case.loss))
        assert set(seen) == expected


def test_every_code_is_explained() -> None:
    """docs/preflight.md has a section a code, and no other."""
    page = Path(__file__).parents[2] / "docs" / "preflight.md"
    assert re.findall(r"^### `([\w-]+)`$", page.read_text(), re.MULTILINE) == list(CODES)
    with pytest.raises(ValueError, match="'code' must be in"):
        Finding(code="no-such-code", seen="", mend="")


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_a_first_batch_without_targets_is_no_probe(kind: type) -> None:
    """On all-ignored targets every product is zero and looks right: the first batch that counts is looked at."""

    class Detached(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = super().forward(x)
            return h + 0.5 * h.detach().square() * h

    x = torch.ones(4, 3, dtype=torch.float64)
    batches = [(x, torch.full((4,), -100)), (x, torch.tensor([0, 1, 0, 1]))]
    for order in (batches, batches[::-1]):
        with pytest.raises(PreflightError, match="product-disagrees"):
            kind(Problem(Detached(3, 2).double(), order, CrossEntropyLoss())).to_dense()
