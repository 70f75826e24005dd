"""Defects seen in other tools, in products and output Hessians: X11-X15, X17, X20-X23, X44."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import frozen
from cases import CASES, F64, relative, tied_mlp
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import (
    CrossEntropyLoss,
    EmpiricalFisherOperator,
    GGNOperator,
    HessianOperator,
    MSELoss,
    Problem,
)
from curvkit_core.losses import GivesGGN

KINDS = [HessianOperator, GGNOperator, EmpiricalFisherOperator]
SAME = 1e-11  # some hundred terms of order 1 through a few layers, float64
each_kind = pytest.mark.parametrize("kind", KINDS)


def direction(op: Any) -> Tensor:
    return op.space.random("gaussian", 0, 0, 1)[0]


@each_kind
def test_x11_unused_parameters_are_zero_rows_and_columns(kind: Any) -> None:
    """A parameter that the forward never uses raises: here its rows and columns are zero."""
    case = tied_mlp()
    op = kind(case.problem())
    unused = torch.cat([torch.arange(e.place.start, e.place.stop) for e in op.problem.parameters if "unused" in e.name])
    only = torch.zeros(op.n, dtype=F64).index_fill_(0, unused, 1.0)
    assert not (op @ direction(op))[unused].any()
    assert not (op @ only).any()
    with pytest.raises(RuntimeError, match="used in the graph"):  # the defect: autograd as it comes
        torch.autograd.grad(case.model(case.inputs).sum(), list(case.model.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_x12_a_loss_linear_in_the_parameters_has_curvature_zero(kind: Any) -> None:
    """A loss linear in the parameters raises "does not require grad": the Hessian and the GGN are zero."""

    class SumLoss:
        """The mean of the outputs."""

        def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
            return (model(batch[0]),)

        def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            return self.unit_losses(y, batch).sum()

        def unit_losses(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            return y[0].sum(1)

        def num_units(self, batch: Any) -> int:
            return len(batch[0])

    model, inputs = nn.Linear(3, 2).to(F64), torch.randn(5, 3, dtype=F64)
    op = kind(Problem(model, [(inputs,)], SumLoss()))
    # the empirical Fisher is made of gradients, which are not zero
    assert bool((op @ direction(op)).any()) == (kind is EmpiricalFisherOperator)
    slopes = torch.autograd.grad(model(inputs).sum(), list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):  # the defect
        torch.autograd.grad(slopes, list(model.parameters()), slopes)


def test_x13_the_ggn_of_any_criterion_is_exact() -> None:
    """The GGN refuses a criterion without a closed form: autograd does it, exactly and unasked."""

    class LogCosh:
        """A user's criterion: no closed form is given."""

        def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
            return (model(batch[0]),)

        def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            return torch.log(torch.cosh(y[0] - batch[1])).sum()

        def num_units(self, batch: Any) -> int:
            return len(batch[0])

    class TakenForQuadratic(LogCosh):
        """The defect's cousin: a closed form of another loss."""

        def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return dy

    case = tied_mlp()
    targets = torch.randn(13, 3, dtype=F64)
    names = [name for name, _ in case.model.named_parameters()]
    values = [p.detach() for p in case.model.parameters()]

    def outputs(*values: Tensor) -> Tensor:
        return torch.func.functional_call(case.model.eval(), dict(zip(names, values, strict=True)), (case.inputs,))

    columns = torch.func.jacrev(outputs, argnums=tuple(range(len(values))))(*values)
    J = torch.cat([c.reshape(39, -1) for c in columns], dim=1)
    slope = 1 - torch.tanh(outputs(*values) - targets).square()
    truth = J.mT @ (slope.reshape(-1, 1) * J) / 13
    assert not isinstance(LogCosh(), GivesGGN)
    assert relative(GGNOperator(Problem(case.model, [(case.inputs, targets)], LogCosh())).to_dense(), truth) <= SAME
    wrong = GGNOperator(Problem(case.model, [(case.inputs, targets)], TakenForQuadratic(), preflight="off"))
    assert relative(wrong.to_dense(), truth) > 1e-2


@each_kind
def test_x14_dtype_is_what_a_product_returns(kind: Any) -> None:
    """bf16 and float32 parameters together: says bf16, returns float32; here both are the widest, float32."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Linear(3, 4, dtype=torch.bfloat16)
            self.high = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.high(torch.tanh(self.low(x.bfloat16())).float())

    model = Mixed()
    batch = (torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0]))
    op = kind(Problem(model, [batch], CrossEntropyLoss()))
    product = op @ direction(op)
    assert op.dtype == product.dtype == torch.float32
    assert product.isfinite().all()
    assert next(model.parameters()).dtype != product.dtype  # the defect: the first parameter's


def test_x15_the_oracle_is_met_on_a_padded_batch() -> None:
    """v for the parameters, the mean logit for the loss, no attention mask: each is told from the truth."""
    torch.manual_seed(0)

    class Masked(nn.Module):
        """Attention pooling over the positions that are there."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.score = nn.Linear(3, 1)
            self.head = nn.Linear(3, 3)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            h = self.embed(tokens)
            weights = self.score(h)[..., 0].masked_fill(~mask, float("-inf")).softmax(-1)
            return self.head(torch.tanh((weights[..., None] * h).sum(1)))

    model = Masked().to(F64)
    tokens, labels = torch.randint(0, 5, (4, 6)), torch.tensor([0, 2, 1, 1])
    mask = torch.arange(6) < torch.tensor([[6], [2], [4], [3]])
    batch = {"tokens": tokens, "mask": mask, "labels": labels}
    op = HessianOperator(Problem(model, [batch], CrossEntropyLoss()))
    v = direction(op)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def call(flat: Tensor, mask: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.func.functional_call(model, named, (tokens, mask))

    def along(risk: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.grad(risk), (at,), (v,))[1]

    def risk(flat: Tensor) -> Tensor:
        return functional.cross_entropy(call(flat, mask), labels)

    found = op @ v
    assert relative(found, along(risk, theta)) <= SAME
    everywhere = torch.ones_like(mask)
    for wrong in (
        along(risk, v),
        along(lambda flat: call(flat, mask).mean(), theta),
        along(lambda flat: functional.cross_entropy(call(flat, everywhere), labels), theta),
    ):
        assert relative(found, wrong) > 1e-2


@each_kind
def test_x17_a_tied_weight_is_all_its_uses_together(kind: Any) -> None:
    """Hooks add up each use alone: f = w tanh(w x), one number, has a closed form."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(1, 1, bias=False, dtype=F64)
            self.outer = nn.Linear(1, 1, bias=False, dtype=F64)
            self.outer.weight = self.inner.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x)))

    x, t = torch.tensor([[0.5], [-1.5], [2.0]], dtype=F64), torch.tensor([[1.0], [0.3], [-0.7]], dtype=F64)
    model = Twice()
    w = model.inner.weight.detach().item()
    h, f = torch.tanh(w * x), w * torch.tanh(w * x)
    outer, inner = h, w * (1 - h**2) * x  # df/dw through each use
    second = 2 * (1 - h**2) * x - 2 * w * h * (1 - h**2) * x**2
    slope = 2 * (f - t)
    truth = {
        HessianOperator: (2 * (outer + inner) ** 2 + slope * second).mean(),
        GGNOperator: (2 * (outer + inner) ** 2).mean(),
        EmpiricalFisherOperator: (slope**2 * (outer + inner) ** 2).mean(),
    }[kind]
    apart = {  # the defect: every use alone
        HessianOperator: (2 * (outer**2 + inner**2) - slope * 2 * w * h * (1 - h**2) * x**2).mean(),
        GGNOperator: (2 * (outer**2 + inner**2)).mean(),
        EmpiricalFisherOperator: (slope**2 * (outer**2 + inner**2)).mean(),
    }[kind]
    found = kind(Problem(model, [(x, t)], MSELoss())).to_dense()
    assert relative(found, truth[None, None]) <= SAME
    assert relative(found, apart[None, None]) > 1e-2


@pytest.mark.parametrize("name", list(CASES))
def test_x20_the_default_ggn_is_exact_and_symmetric_to_rounding(name: str) -> None:
    """The default is a finite difference, 30-250 times less symmetric: here differences are opt-in."""

    def asymmetry(op: Any) -> float:
        M = op.to_dense()
        return float((M - M.mT).norm() / M.norm())

    problem = CASES[name]().problem()
    assert asymmetry(GGNOperator(problem)) <= 1e-14
    assert asymmetry(GGNOperator(problem, strategy="finite-difference")) > 30e-14


# X21-X23: the output Hessian -----------------------------------------------------------------------------------------


@frozen
class WithDefect(CrossEntropyLoss):
    """Cross-entropy whose output-Hessian product is one with a defect."""

    product: Callable[[Tensor, Tensor, Tensor], Tensor]

    def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.product(y[0], batch[1], dy[0]),)


def softmax_product(z: Tensor, u: Tensor, dim: int) -> Tensor:
    p = torch.softmax(z, dim)
    return p * u - p * (p * u).sum(dim, keepdim=True)


def off_autograd(loss: CrossEntropyLoss, z: Tensor, targets: Tensor, **options: Any) -> float:
    """How far the product lies from autograd's, for torch's own loss."""
    u = torch.randn(z.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    gradient = torch.func.grad(lambda z: functional.cross_entropy(z, targets, reduction="sum", **options))
    truth = torch.func.jvp(gradient, (z,), (u,))[1]
    return relative(loss.ggn((z,), (None, targets), (u[None],))[0].reshape(z.shape), truth)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_x21_the_closed_form_honours_every_option(smoothing: float, weighted: bool) -> None:
    """Ignored targets curve the closed form, and weights and smoothing are left out: held against autograd."""
    torch.manual_seed(0)
    z, targets = torch.randn(8, 4, dtype=F64), torch.randint(0, 4, (8,))
    targets[:3] = -100
    options = {"weight": torch.rand(4, dtype=F64) + 0.2 if weighted else None, "label_smoothing": smoothing}
    assert off_autograd(CrossEntropyLoss(**options), z, targets, **options) <= SAME
    defect = WithDefect(product=lambda z, t, u: softmax_product(z, u[0], 1)[None], **options)
    assert off_autograd(defect, z, targets, **options) > 1e-2


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 2)])
def test_x22_classes_are_axis_1_at_every_rank(shape: tuple[int, ...]) -> None:
    """The softmax is taken over the last axis: torch's classes are axis 1."""
    torch.manual_seed(0)
    z, targets = torch.randn(shape, dtype=F64), torch.randint(0, 4, shape[:1] + shape[2:])
    assert off_autograd(CrossEntropyLoss(), z, targets) <= SAME
    defect = WithDefect(product=lambda z, t, u: softmax_product(z, u[0], -1)[None])
    assert (off_autograd(defect, z, targets) > 1e-2) == (len(shape) > 2)


class Poisoned(nn.Module):
    """An additive mask: the logits of padded rows are inf or NaN, their derivatives are not."""

    def __init__(self, poison: float) -> None:
        super().__init__()
        self.body, self.poison = tied_mlp().model, poison

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.body(x) + torch.where(padding[:, None], self.poison, 0.0)


@pytest.mark.parametrize("poison", [float("inf"), float("-inf"), float("nan")])
@each_kind
def test_x23_poison_in_ignored_rows_changes_nothing(kind: Any, poison: float) -> None:
    """Ignored rows are multiplied by 0, so inf or NaN there spoils all: here they are left out by `where`."""
    case = tied_mlp()
    padding = case.targets == -100

    def product(poison: float, loss: CrossEntropyLoss) -> Tensor:
        op = kind(Problem(Poisoned(poison), [(case.inputs, padding, case.targets)], loss, preflight="off"))
        return op @ direction(op)

    assert padding.any()
    assert torch.equal(product(poison, CrossEntropyLoss()), product(0.0, CrossEntropyLoss()))

    class TimesZero(CrossEntropyLoss):
        """The defect: a factor of 0 for the rows that do not count."""

        def unit_losses(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            keep = (batch[-1] != -100).to(F64)
            return functional.cross_entropy(y[0], batch[-1].clamp_min(0), reduction="none") * keep

        def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            return self.unit_losses(y, batch).sum()

        def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (softmax_product(y[0], dy[0], -1) * (batch[-1] != -100)[:, None],)

    assert relative(product(0.0, TimesZero()), product(0.0, CrossEntropyLoss())) <= SAME
    assert not product(poison, TimesZero()).isfinite().all()


def test_x44_forwards_are_counted_and_are_as_few_as_documented() -> None:
    """A guide says one forward and the code runs three: here they are counted."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.forwards = tied_mlp().model, [0]

        def forward(self, x: Tensor) -> Tensor:
            self.forwards[0] += 1
            return self.body(x)

    case = tied_mlp()
    model = Counted()

    def forwards(kind: Any, product: int, **options: Any) -> int:
        """Of product number so many over one batch."""
        op = kind(Problem(model, case.batches(), case.loss, preflight="off"), **options)
        v = direction(op)
        for _ in range(product):
            model.forwards[0] = 0
            op @ v
        return model.forwards[0]

    rebuilt, lean, kept = (
        {"strategy": s, "cache": c} for s, c in (("reverse", "rebuild"), ("lean", "rebuild"), ("reverse", "keep"))
    )
    for kind in KINDS:
        assert forwards(kind, 2, **rebuilt) == 1
        assert forwards(kind, 1, **kept) == 1
        assert forwards(kind, 2, **kept) == 0
    assert forwards(GGNOperator, 2, **lean) == 2  # one with dual numbers, one with a graph
    assert forwards(HessianOperator, 2, **lean) == 1
    assert forwards(HessianOperator, 2, strategy="finite-difference") == 2  # a gradient at each end

    def three_forwards() -> int:
        """The defect."""
        model.forwards[0] = 0
        outputs = model(case.inputs)
        for _ in range(2):
            model(case.inputs)
        outputs.sum().backward()
        return model.forwards[0]

    assert three_forwards() > 2
