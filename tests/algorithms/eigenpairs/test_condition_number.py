"""The condition number: the interval holds the dense one; what is only a lower bound says so."""

from __future__ import annotations

import math

import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import GGNOperator, HessianOperator, LambdaOperator, condition_number


def operator(values: Tensor, seed: int = 0, dtype: torch.dtype = F64) -> LambdaOperator:
    M = symmetric_matrix(values, seed).to(dtype)
    return LambdaOperator(lambda v: M @ v, len(M), dtype=dtype)


def kappa(values: Tensor) -> float:
    return float(values.abs().max() / values.abs().min())


def spectrum(kind: str, n: int) -> Tensor:
    i = torch.arange(n, dtype=F64)
    return {
        "spread": torch.linspace(0.01, 5.0, n, dtype=F64),
        "clustered": torch.where(i % 2 == 0, 1.0, 5.0),
        "decades": torch.logspace(-6, 0, n, dtype=F64),
        "negative": -torch.logspace(-2, 0, n, dtype=F64),
        "tiny": 1e-20 * torch.logspace(-3, 0, n, dtype=F64),
        "huge": 1e20 * torch.logspace(-3, 0, n, dtype=F64),
    }[kind]


@settings(max_examples=50)
@given(
    kind=st.sampled_from(["spread", "clustered", "decades", "negative", "tiny", "huge"]),
    n=st.integers(1, 30),
    seed=st.integers(0, 999),
    budget=st.integers(1, 40),
)
def test_the_interval_holds_the_true_one(kind: str, n: int, seed: int, budget: int) -> None:
    """Whatever the budget; with enough products it converges, to 1 %, and 1.1 times the estimate lies outside."""
    values = spectrum(kind, n)
    true = kappa(values)
    short = condition_number(operator(values, seed), max_matvecs=budget, seed=seed)
    rounding = 1 + 1e-9  # eps kappa, kappa up to 1e6
    assert short.lower <= true * rounding
    assert true <= short.upper * rounding
    assert short.num_matvecs <= budget
    full = condition_number(operator(values, seed), seed=seed)
    assert (full.status, full.converged) == ("converged", True)
    assert abs(full.estimate / true - 1) <= 1e-2
    assert full.lower <= true * rounding
    assert true <= full.upper * rounding
    assert 1.1 * true > full.upper


def test_singular_operators_and_damping() -> None:
    """Zero to rounding: infinite; damping makes it (max + delta) / delta."""
    values = torch.cat([torch.zeros(10, dtype=F64), torch.linspace(1.0, 4.0, 20, dtype=F64)])
    result = condition_number(operator(values), seed=0)
    assert (result.status, result.estimate, result.upper, result.converged) == ("singular", math.inf, math.inf, False)
    assert result.lower >= 1e10
    damped = condition_number(operator(values), damping=0.5, seed=0)
    assert damped.status == "converged"
    assert abs(damped.estimate - 9.0) <= 1e-2 * 9.0
    assert condition_number(operator(torch.zeros(5, dtype=F64)), seed=0).status == "singular"


def test_indefinite_operators_get_a_lower_bound() -> None:
    """The least eigenvalue is inside; the bound holds. With n = 2 nothing is inside."""
    values = torch.linspace(-3.0, 5.0, 40, dtype=F64) + 0.03
    result = condition_number(operator(values), seed=0)
    assert (result.status, result.converged, result.upper) == ("indefinite", False, math.inf)
    assert result.lower <= kappa(values)
    H = HessianOperator(tied_mlp().problem())
    assert condition_number(H, seed=0).status == "indefinite"
    two = condition_number(operator(torch.tensor([-4.0, 1.0], dtype=F64)), seed=0)
    assert (two.status, round(two.estimate, 9)) == ("converged", 4.0)


def test_a_small_end_that_has_not_converged_is_an_upper_bound_only() -> None:
    """kappa = 1e8, 60 products of n = 400: no upper bound, and the lower one holds."""
    values = torch.logspace(-8, 0, 400, dtype=F64)
    op = LambdaOperator(lambda v: values * v, 400, dtype=F64)
    result = condition_number(op, max_matvecs=60, seed=0)
    assert (result.status, result.converged, result.upper, result.num_matvecs) == ("lower-bound", False, math.inf, 60)
    assert 1.0 < result.lower <= 1e8
    damped = condition_number(op, damping=1e-2, seed=0)
    assert damped.status == "converged"
    assert abs(damped.estimate / (1.01 / (1e-2 + 1e-8)) - 1) <= 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_right_or_says_less(dtype: torch.dtype) -> None:
    values = torch.linspace(0.5, 5.0, 40, dtype=F64)
    M = symmetric_matrix(values).to(dtype)
    true = kappa(torch.linalg.eigvalsh(M.double()))
    result = condition_number(LambdaOperator(lambda v: M @ v, 40, dtype=dtype), seed=0, max_matvecs=200)
    assert result.lower <= true <= result.upper
    assert result.status in ("converged", "lower-bound")


def test_ggn_of_a_network_and_options() -> None:
    G = GGNOperator(tied_mlp().problem())
    true = kappa(torch.linalg.eigvalsh(G.shift(0.01).to_dense()))
    result = condition_number(G, damping=0.01, seed=0)
    assert result.lower <= true <= result.upper
    assert result.info.converged is True
    with pytest.raises(ValueError, match="'damping' must be >= 0"):
        condition_number(G, damping=-1.0)
    with pytest.raises(ValueError, match="ConditionNumber needs a symmetric operator"):
        condition_number(LambdaOperator(lambda v: v, 3, symmetric=False))
