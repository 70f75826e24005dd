"""Operators and linearizations that are not what they say: found by identities, without a further derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, tied_mlp
from torch import Tensor, nn

from curvkit_core import CrossEntropyLoss, Problem
from curvkit_core.checks import PreflightError
from curvkit_core.checks.recorded import Call
from curvkit_core.checks.transposes import asymmetry, transpose_gap
from curvkit_core.linearize import Linearization
from curvkit_core.operators import DataOperator


class Gram(DataOperator):
    """J^T J, or what `twist` makes of it."""

    twist = 0.0

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        product = lin.vjp(lin.jvp(V))
        return product + self.twist * product.roll(1, dims=1)


class Twisted(Gram):
    """Not symmetric, though it says so."""

    twist = 0.1


class Counting(Gram):
    """Keeps a count during a pass, as an operator does that numbers its units."""

    calls = 0

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        self.calls += 1
        return super().batch_product(lin, batch, V)


def apply(kind: type[DataOperator], dtype: torch.dtype = F64, **options: Any) -> DataOperator:
    case = tied_mlp()
    batches = [(x.to(dtype), t) for x, t in case.batches((8, 5))]
    operator = kind(Problem(case.model.to(dtype), batches, case.loss, **options))
    operator @ operator.space.random("gaussian", 0, 0, 1)[0]
    return operator


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_plugins_asymmetric_operator_is_found(dtype: torch.dtype) -> None:
    with pytest.raises(
        PreflightError, match=r"\[operator-not-symmetric\] Twisted: <A u, w> and <u, A w> differ by 0\.\d"
    ):
        apply(Twisted, dtype)
    assert apply(Gram, dtype).problem.history.findings == []


def test_sixteen_bits_are_only_noted() -> None:
    """A tolerance from bfloat16's eps has no power: nothing is refused there."""
    assert apply(Twisted, torch.bfloat16).problem.history.findings == []


def test_an_operator_that_says_it_is_not_symmetric_is_not_asked() -> None:
    class Honest(Twisted):
        def __init__(self, problem: Problem) -> None:
            super().__init__(problem)
            self.symmetric = False

    assert apply(Honest).problem.history.findings == []


def test_the_probe_disturbs_no_count_of_the_operators() -> None:
    """Two batches, two calls; the probe's are made on a copy."""
    assert apply(Counting).calls == 2


class WrongBackward(torch.autograd.Function):
    """The identity, whose backward halves the slope of the first column; forward mode is right."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * torch.tensor([0.5, 1.0, 1.0], dtype=slope.dtype)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


def test_a_backward_that_is_not_the_transpose_is_found() -> None:
    """The outputs' differences agree with J v; J^T u belongs to another J."""

    class Model(nn.Module):
        def __init__(self, wrong: bool) -> None:
            super().__init__()
            self.body = tied_mlp().model
            self.wrong = wrong

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return WrongBackward.apply(y) if self.wrong else y

    def product(wrong: bool) -> None:
        operator = Gram(Problem(Model(wrong), tied_mlp().batches(), CrossEntropyLoss()), strategy="lean")
        operator @ torch.ones(operator.n, dtype=F64)

    with pytest.raises(PreflightError, match=r"\[transpose-disagrees\] Gram: <J v, u> and <v, J\^T u> differ"):
        product(True)
    product(False)


def test_the_gaps_are_those_of_dense_matrices() -> None:
    """Relative to the larger product of norms; 0 to rounding for a true transpose and a symmetric matrix."""
    torch.manual_seed(0)
    J, E = torch.randn(5, 7, dtype=F64), torch.randn(5, 7, dtype=F64)
    v, u = torch.randn(7, dtype=F64), torch.randn(5, dtype=F64)

    def calls(transpose: Tensor) -> list[Call]:
        forward = Call(name="jvp", given=(v[None],), got=((J @ v)[None],))
        return [forward, Call(name="vjp", given=(u[None],), got=((transpose @ u)[None],))]

    rounding = 20 * torch.finfo(F64).eps  # dots of 7 terms
    assert transpose_gap(calls(J.mT)) <= rounding
    wrong = J + 1e-3 * E
    scale = max(float((J @ v).norm() * u.norm()), float(v.norm() * (wrong.mT @ u).norm()))
    expected = 1e-3 * abs(float(u @ E @ v)) / scale
    assert transpose_gap(calls(wrong.mT)) == pytest.approx(expected, rel=1e-10)
    A, w = torch.randn(7, 7, dtype=F64), torch.randn(7, dtype=F64)
    S = A + A.mT
    assert asymmetry(v, S @ v, w, S @ w) <= rounding
    assert asymmetry(v, A @ v, w, A @ w) > 1e-2
    assert asymmetry(v, v * float("inf"), w, w) == 0.0  # other checks speak of that
