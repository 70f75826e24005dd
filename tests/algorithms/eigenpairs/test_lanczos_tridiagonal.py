"""The Lanczos factorisation: its identity to rounding, what reorthogonalisation changes, breakdown, counts."""

from __future__ import annotations

import math

import pytest
import torch
from attrs import evolve
from cases import F64, symmetric_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, lanczos_tridiagonal
from curvkit_core.results import LanczosResult


def operator(A: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def tridiagonal(f: LanczosResult) -> Tensor:
    return f.alpha.diag() + f.beta.diag(1) + f.beta.diag(-1)


def recurrence_gap(f: LanczosResult, A: Tensor) -> float:
    """|Q A - T Q - e_m r^T|, a basis vector a row."""
    Q = f.basis.to(F64)
    gap = Q @ A.to(F64) - tridiagonal(f) @ Q
    gap[-1] -= f.residual.to(F64)
    return float(gap.norm())


def overlap(f: LanczosResult) -> float:
    """How far Q Q^T is from I."""
    Q = f.basis.to(F64)
    return float((Q @ Q.mT - torch.eye(len(Q), dtype=F64)).abs().max())


SPREAD = torch.linspace(-3, 5, 40, dtype=F64)


@pytest.mark.parametrize("mode", ["full", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_lanczos_recurrence_holds_to_rounding(steps: int, dtype: torch.dtype, mode: str) -> None:
    """Q A = T Q + e_m r^T, with either option."""
    A = symmetric_matrix(SPREAD).to(dtype)
    f = lanczos_tridiagonal(operator(A), steps=steps, reorthogonalize=mode, seed=0)
    tol = 10 * 40 * torch.finfo(dtype).eps * 5.0  # n-term dot products, |A| = 5
    assert f.num_matvecs == f.info.num_matvecs == len(f.basis) == steps
    assert recurrence_gap(f, A) <= tol
    if steps > 1:
        assert recurrence_gap(evolve(f, beta=f.beta * 1.001), A) > tol
    else:
        assert recurrence_gap(evolve(f, alpha=f.alpha * 1.001), A) > tol or dtype == torch.float32


def test_full_reorthogonalisation_keeps_the_basis_and_none_lets_ghosts_in() -> None:
    """Outliers, 60 steps: Q Q^T = I and T's largest values once each; without, overlaps of order one and copies."""
    spectrum = torch.cat([torch.linspace(0, 1, 98, dtype=F64), torch.tensor([90.0, 100.0], dtype=F64)])
    A = symmetric_matrix(spectrum)
    full = lanczos_tridiagonal(operator(A), steps=60, seed=0)
    none = lanczos_tridiagonal(operator(A), steps=60, reorthogonalize="none", seed=0)
    assert overlap(full) <= 100 * torch.finfo(F64).eps
    assert overlap(none) > 0.9

    def copies(f: LanczosResult) -> int:
        return int(((torch.linalg.eigvalsh(tridiagonal(f)) - 100.0).abs() <= 1e-6).sum())

    assert copies(full) == 1
    assert copies(none) > 1


def test_all_steps_give_the_spectrum() -> None:
    """k = n: T's eigenvalues are A's, and nothing is left: a breakdown."""
    A = symmetric_matrix(SPREAD[:12])
    f = lanczos_tridiagonal(operator(A), steps=12, seed=0)
    tol = 10 * 12 * torch.finfo(F64).eps * 3.0
    assert (torch.linalg.eigvalsh(tridiagonal(f)) - SPREAD[:12]).abs().max() <= tol
    assert f.residual_norm <= tol and f.breakdown


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_ends_it_and_is_said(dtype: torch.dtype) -> None:
    """Rank 3 and the null space: four directions at most; a start in an eigenspace: one."""
    A = symmetric_matrix(torch.cat([torch.zeros(37), torch.tensor([1.0, 2.0, 3.0])]).to(F64)).to(dtype)
    f = lanczos_tridiagonal(operator(A), steps=20, seed=0)
    assert f.breakdown and f.num_matvecs == 4
    values = torch.linalg.eigvalsh(tridiagonal(f))
    assert (values - torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64)).abs().max() <= 400 * torch.finfo(dtype).eps
    unit = torch.eye(1, 40, dtype=dtype)[0]
    one = lanczos_tridiagonal(LambdaOperator(lambda v: 7.0 * v, 40, dtype=dtype), 3.0 * unit, steps=9)
    assert one.breakdown and one.num_matvecs == 1 and one.seed is None
    assert torch.equal(one.basis[0], unit) and float(one.alpha[0]) == 7.0
    zero = lanczos_tridiagonal(LambdaOperator(lambda v: 0.0 * v, 40, dtype=dtype), steps=9, seed=0)
    assert zero.breakdown and zero.num_matvecs == 1 and float(zero.alpha[0]) == 0.0


@given(
    n=st.integers(1, 25),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    negative=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_spectrum_gives_a_factorisation(n: int, share: float, seed: int, scale: float, negative: bool) -> None:
    """The identity, orthonormal rows, r orthogonal to them, and eigenvalues of T within |r| of A's."""
    values = torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(seed)) - (0.5 if negative else 0.0)
    A = symmetric_matrix(values) * scale
    f = lanczos_tridiagonal(operator(A), steps=max(1, round(share * n)), seed=seed)
    tol = 100 * n * torch.finfo(F64).eps
    assert recurrence_gap(f, A) <= tol * scale
    assert overlap(f) <= tol
    assert (f.basis @ f.residual).abs().max() <= tol * scale
    assert math.isclose(float(f.residual.norm()), f.residual_norm, rel_tol=1e-12, abs_tol=1e-300)
    theta = torch.linalg.eigvalsh(tridiagonal(f))
    distance = (theta[:, None] - scale * values).abs().min(dim=1).values
    assert (distance <= f.residual_norm + tol * scale).all()


def test_a_budget_gives_the_first_steps() -> None:
    """Stopped at each product: the factorisation of that many steps, bit for bit."""
    op = operator(symmetric_matrix(SPREAD))
    for budget in (1, 2, 7):
        short = lanczos_tridiagonal(op, steps=budget, seed=0)
        cut = lanczos_tridiagonal(op, steps=12, seed=0, max_seconds=None, on_progress=None)
        assert torch.equal(short.alpha, cut.alpha[:budget])
        assert torch.equal(short.basis, cut.basis[:budget])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operators_are_taken(dtype: torch.dtype) -> None:
    """The recurrence holds to the products' rounding."""
    A = symmetric_matrix(SPREAD)
    f = lanczos_tridiagonal(LambdaOperator(lambda v: A.to(dtype) @ v, 40, dtype=dtype), steps=15, seed=0)
    tol = 4 * 15**0.5 * torch.finfo(dtype).eps * 5.0
    assert f.basis.dtype == torch.float32
    assert torch.finfo(dtype).eps * 1e-2 < recurrence_gap(f, A) <= tol
    assert overlap(f) <= 100 * torch.finfo(torch.float32).eps


def test_options_out_of_range_are_named() -> None:
    op = operator(torch.eye(5, dtype=F64))
    with pytest.raises(ValueError, match="steps=6 is out of range: expected 1 <= steps <= 5"):
        lanczos_tridiagonal(op, steps=6)
    with pytest.raises(ValueError, match="'steps' must be >= 1: 0"):
        lanczos_tridiagonal(op, steps=0)
    with pytest.raises(ValueError, match="'reorthogonalize' must be in"):
        lanczos_tridiagonal(op, steps=2, reorthogonalize="often")
    with pytest.raises(ValueError, match=r"start has shape \(5,\) and norm 0.0"):
        lanczos_tridiagonal(op, torch.zeros(5, dtype=F64), steps=2)
    with pytest.raises(ValueError, match="LanczosTridiagonal needs a symmetric operator"):
        lanczos_tridiagonal(LambdaOperator(lambda v: v, 5, symmetric=False), steps=2)
