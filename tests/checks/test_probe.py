"""X24: losses whose second derivative is silently wrong are found; what is right, kinked or rounded is not refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import F64, relative, tied_mlp
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import CallableLoss, CrossEntropyLoss, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError
from curvkit_core.losses.protocol import Outputs


def product(problem: Problem, kind: Any = HessianOperator, **options: Any) -> Tensor:
    operator = kind(problem, **options)
    return operator @ operator.space.random("gaussian", 0, 5, 1)[0]


class GradientInForward(torch.autograd.Function):
    """Cross-entropy sum that saves its gradient, detached, as fused losses do."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits.softmax(-1) - functional.one_hot(targets, logits.shape[-1]))
        return functional.cross_entropy(logits, targets, reduction="sum")

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.saved_tensors[0], None


def plain(logits: Tensor, targets: Tensor) -> Tensor:
    """What both of the wrong ones have as their value."""
    return functional.cross_entropy(logits, targets, reduction="sum")


def detaching(logits: Tensor, targets: Tensor) -> Tensor:
    """A weight that depends on the parameters and is detached: the gradient is not that of the value."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses.detach().exp() * losses).sum()


def attached(logits: Tensor, targets: Tensor) -> Tensor:
    """The same with its weight's derivative."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses.exp() * losses).sum()


def net(activation: type[nn.Module], width: int = 8, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 3)]
    return nn.Sequential(*layers).to(dtype)


def data(dtype: torch.dtype = torch.float32, rows: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, dtype=F64, generator=generator).to(dtype)
    return [(x, torch.randint(0, 3, (rows,), generator=generator))]


def with_loss(fn: Any, model: nn.Module, dtype: torch.dtype) -> Problem:
    return Problem(model, data(dtype), CallableLoss(lambda m, b: fn(m(b[0]), b[1]) / len(b[0])))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [(GradientInForward.apply, plain), (detaching, attached)],
    ids=["gradient-in-forward", "detached-weight"],
)
def test_a_loss_that_drops_a_derivative_is_found(wrong: Any, right: Any, dtype: Any, activation: Any) -> None:
    """Also behind a ReLU: along the last layer nothing has a kink."""
    model = net(activation, dtype=dtype)
    with pytest.raises(PreflightError, match=r"\[product-disagrees\] HessianOperator.* differ by .*agree.* Mend: look"):
        product(with_loss(wrong, model, dtype))
    truth = product(with_loss(right, model, dtype))
    assert truth.isfinite().all()


def test_what_is_refused_is_wrong_indeed() -> None:
    """The control's control: with the checks off, the product of the fused loss is 18 % off and more."""
    model = net(nn.Tanh, dtype=F64)
    problem = with_loss(GradientInForward.apply, model, F64)
    problem.preflight = "off"
    assert relative(product(problem), product(with_loss(plain, model, F64))) > 0.18


class Head(nn.Module):
    """torch's linear_cross_entropy inside a network."""

    def __init__(self, options: Any, activation: Any, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 8)
        self.weight = nn.Parameter(torch.randn(11, 8) / 2)
        self.options, self.activation = options, activation
        self.to(dtype)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.activation(self.body(x))
        return functional.linear_cross_entropy(h, self.weight, t, options=self.options)


@pytest.mark.skipif(not hasattr(functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torchs_chunked_linear_cross_entropy_is_found_and_the_plain_one_passes(dtype: Any, activation: Any) -> None:
    loss = CallableLoss(lambda model, batch: model(*batch))
    chunked = Head(nn.LinearCrossEntropyOptions(batch_chunk_size=4), activation, dtype)
    with pytest.raises(PreflightError, match=r"\[product-disagrees\].*linear_cross_entropy with options="):
        product(Problem(chunked, data(dtype), loss))
    problem = Problem(Head(None, activation, dtype), data(dtype), loss)
    assert product(problem).isfinite().all()
    assert problem.history.findings == []


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 1024])
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_relu_networks_are_never_refused(kind: Any, width: int, dtype: torch.dtype) -> None:
    problem = Problem(net(nn.ReLU, width, dtype), data(dtype, 64), CrossEntropyLoss())
    assert product(problem, kind).isfinite().all()
    assert all("inconclusive]" in finding for finding in problem.history.findings)


def test_where_kinks_hide_the_truth_it_is_said() -> None:
    """1024 ReLUs a layer: at the smallest step of float32 some are crossed, and a right product looks 90 % wrong."""
    problem = Problem(net(nn.ReLU, 1024), data(rows=64), CrossEntropyLoss())
    product(problem)
    (finding,) = problem.history.findings
    assert finding.startswith(
        "[product-disagrees: inconclusive] HessianOperator: the Hessian's product and differences"
    )
    assert finding.endswith("through ReluBackward0.")
    smooth = Problem(net(nn.Tanh, 1024), data(rows=64), CrossEntropyLoss())
    product(smooth)
    assert smooth.history.findings == []


class SmoothedByNumbers(nn.Module):
    """30,000 kinks close together: curved to differences, which cross thousands of them, and straight to autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.9], dtype=F64))
        self.register_buffer("kinks", torch.linspace(0.9 - 1.5e-4, 0.9 + 1.5e-4, 30_000, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.theta * x - self.kinks).mean(1)


def test_many_kinks_that_look_smooth_are_not_taken_for_a_wrong_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps agree to 1 % (18,000 and 1,800 kinks crossed); without the search for kinks it would be refused."""

    def problem() -> Problem:
        return Problem(SmoothedByNumbers(), [torch.ones(2, 1, dtype=F64)], CallableLoss(lambda m, b: m(b).mean()))

    said = problem()
    assert not product(said).any()
    assert [f.split("]")[0] for f in said.history.findings] == ["[product-disagrees: inconclusive"]
    monkeypatch.setattr("curvkit_core.checks.graph_facts._KINK", re.compile("nothing"))
    with pytest.raises(PreflightError, match="product-disagrees"):
        product(problem())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_sixteen_bits_are_never_refused(kind: Any, dtype: torch.dtype) -> None:
    """As the model's own dtype, and under autocast; what is wrong there is only noted."""
    problem = Problem(net(nn.Tanh, 64, dtype), data(dtype), CrossEntropyLoss())
    assert product(problem, kind).isfinite().all()
    cast = Problem(
        net(nn.Tanh, 64), data(), CrossEntropyLoss(), forward_context=lambda: torch.autocast("cpu", dtype=dtype)
    )
    assert product(cast, kind).isfinite().all()
    noted = with_loss(GradientInForward.apply, net(nn.Tanh, dtype=dtype), dtype)
    product(noted)
    assert "in 16 bits" in noted.history.findings[0]


def test_a_loss_linear_in_the_parameters_passes() -> None:
    """The zero operator: differences are rounding, and so is the product."""
    for dtype in (torch.float32, F64):
        problem = Problem(nn.Linear(4, 1).to(dtype), data(dtype), CallableLoss(lambda m, b: m(b[0]).mean()))
        assert not product(problem).any()
        assert problem.history.findings == []


class WrongGGN(CrossEntropyLoss):
    """A closed form that weighs the classes as its loss does not."""

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        (right,) = super().ggn(y, batch, dy)
        return (right * torch.tensor([1.0, 1.5, 2.0]),)


class DetachedLoss:
    """An adapter without a closed form, whose loss drops a derivative."""

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        return (model(batch[0]),)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        return detaching(y[0], batch[1])

    def num_units(self, batch: Any) -> int:
        return len(batch[0])


@pytest.mark.parametrize("loss", [WrongGGN(), DetachedLoss()], ids=["closed-form", "autograd"])
def test_a_wrong_loss_curvature_is_found(loss: Any) -> None:
    with pytest.raises(
        PreflightError, match=r"\[loss-curvature-disagrees\] GGNOperator: \w+'s curvature in the outputs"
    ):
        product(Problem(net(nn.ReLU), data(), loss), GGNOperator)
    assert product(Problem(net(nn.ReLU), data(), CrossEntropyLoss()), GGNOperator).isfinite().all()


def test_a_loss_may_say_that_its_ggn_is_less_than_its_hessian() -> None:
    class Half(CrossEntropyLoss):
        def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
            return (0.5 * super().ggn(y, batch, dy)[0],)

    class Meant(Half):
        ggn_is_hessian = False

    problem = Problem(net(nn.Tanh), data(), Meant())
    assert product(problem, GGNOperator).isfinite().all()
    assert problem.history.findings == []
    with pytest.raises(PreflightError, match="loss-curvature-disagrees"):
        product(Problem(net(nn.Tanh), data(), Half()), GGNOperator)


class WrongTangent(torch.autograd.Function):
    """tanh whose forward-mode derivative is twice too large."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * (1 - ctx.saved_tensors[0].square())

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * tangent * (1 - ctx.saved_tensors[0].square())


def test_a_wrong_forward_derivative_is_found_where_it_is_used() -> None:
    """The lean strategy uses it, and reverse mode does not."""

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return WrongTangent.apply(x)

    problem = Problem(net(Custom, dtype=F64), data(F64), CrossEntropyLoss())
    with pytest.raises(PreflightError, match=r"\[product-disagrees\] GGNOperator: J v and differences of the outputs"):
        product(problem, GGNOperator, strategy="lean")
    reference = Problem(net(nn.Tanh, dtype=F64), data(F64), CrossEntropyLoss())
    right = product(problem, GGNOperator, strategy="reverse")
    assert relative(right, product(reference, GGNOperator)) <= 1e-12


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_poisoned_outputs_of_ignored_targets_do_not_disturb_the_probe(kind: Any) -> None:
    """X23: inf and NaN logits where the target is ignored."""

    class Poisoned(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            poison = torch.zeros(len(x), 1, dtype=torch.bool)
            poison[1] = poison[5] = True  # the case's ignored targets
            return torch.where(poison, float("inf"), self.body(x))

    case = tied_mlp()
    problem = Problem(Poisoned(case.model), case.batches(), case.loss)
    v = torch.linspace(-1.0, 1.0, problem.parameters.n, dtype=F64)
    assert relative(kind(problem) @ v, kind(case.problem()) @ v) <= 1e-12
    assert problem.history.findings == []
