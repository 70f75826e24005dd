"""Defects seen in other tools, in eigensolvers: X25-X28, X30, and what X31 and X37 say of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, eigsh


def operator(A: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def plain_lanczos(product: Callable[[Tensor], Tensor], v: Tensor, steps: int, *, threshold: float = 0.0) -> Tensor:
    """A textbook twin with the defects: no reorthogonalisation, torch's own norms, an absolute threshold."""
    v, before, beta = v / v.norm(), torch.zeros_like(v), 0.0
    diagonal, off = [], []
    for _ in range(steps):
        w = product(v) - beta * before
        diagonal.append(float(v @ w))
        w = w - diagonal[-1] * v
        beta = float(w.norm())
        if beta <= threshold:
            break
        off.append(beta)
        before, v = v, w / beta
    T = torch.diag(torch.tensor(diagonal, dtype=F64))
    off_diagonal = torch.tensor(off[: len(diagonal) - 1], dtype=F64)
    return torch.linalg.eigvalsh(T + off_diagonal.diag(1) + off_diagonal.diag(-1)).flip(0)


def start(n: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [60, 120, 200])
def test_x25_no_eigenvalue_comes_twice(steps: int) -> None:
    """Reorthogonalisation stops above 50 steps: six values of 100.00; here 100, 90, then the bulk in [0, 1]."""
    spectrum = torch.cat([torch.linspace(0, 1, 298, dtype=F64), torch.tensor([90.0, 100.0], dtype=F64)])
    A = symmetric_matrix(spectrum)

    def ghosts(values: Tensor) -> int:
        """Values near 100 or 90 beyond the two there are."""
        return int((values > 50).sum()) - 2

    result = eigsh(operator(A), k=6, ncv=steps, tol=1e-13, max_matvecs=steps, seed=0)
    assert result.num_matvecs == steps
    assert ghosts(result.eigenvalues) == 0
    assert ghosts(plain_lanczos(lambda v: A @ v, start(300), steps)) > 0


def test_x26_four_million_numbers_keep_six_digits() -> None:
    """n = 4 million in float32: 40.03 for 40.00, "converged": norms are summed in chunks into float64."""
    n = 4_000_000
    diagonal = torch.linspace(0, 1, n)
    diagonal[0] = 40.0
    op = LambdaOperator(lambda v: diagonal * v, n)
    result = eigsh(op, k=1, ncv=8, seed=0, tol=1e-3)
    assert abs(float(result.eigenvalues[0]) / 40.0 - 1.0) <= 1e-6
    assert result.converged.all()
    # the worst case: every product rounded the same way, so that 1,024 of them in float32 are off by 3e-7
    alike = torch.full((1, n), 0.1)
    truth = float(alike[0].double().norm())
    running = float(numpy.cumsum(alike[0].square().numpy(), dtype=numpy.float32)[-1] ** 0.5)  # the defect: one float32
    assert abs(float(op.space.norms(alike)[0]) / truth - 1.0) <= 1e-6
    assert abs(running / truth - 1.0) > 1e-5


def test_x27_a_rank_one_operator_gives_k_pairs() -> None:
    """A rank-1 operator, k = 5, gives two pairs and no word: here k pairs, zeros for what is not there."""
    u = start(40)
    A = torch.outer(u, u) / (u @ u) * 3.0
    result = eigsh(operator(A), k=5, seed=0)
    assert len(result.eigenvalues) == len(result.eigenvectors) == 5
    assert result.converged.all()
    assert abs(float(result.eigenvalues[0]) - 3.0) <= 1e-12
    assert float(result.eigenvalues[1:].abs().max()) <= 1e-12
    assert len(plain_lanczos(lambda v: A @ v, start(40), 20, threshold=1e-10)) < 5


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_x28_eigenvalues_scale_with_the_operator(scale: float, dtype: torch.dtype) -> None:
    """Absolute thresholds: times 1e-13, Lanczos stops at once and power iteration says 0.0, converged."""
    A = symmetric_matrix(torch.cat([torch.linspace(0, 1, 57, dtype=F64), torch.tensor([10.0, 20.0, 40.0], dtype=F64)]))
    A = A.to(dtype)
    one = eigsh(operator(A), k=3, seed=0)
    other = eigsh(LambdaOperator(lambda v: scale * (A @ v), 60, dtype=dtype), k=3, seed=0)
    assert other.converged.all()
    assert torch.allclose(other.eigenvalues / scale, one.eigenvalues, rtol=1e-5)
    assert torch.allclose(other.residuals / scale, one.residuals, rtol=0, atol=1e-3 * 40)
    if scale < 1:
        assert len(plain_lanczos(lambda v: scale * (A @ v), start(60, dtype), 20, threshold=1e-10)) == 1


def test_x30_residuals_are_the_given_operators() -> None:
    """Residuals after deflation refer to the deflated operator: here they bound those of A itself."""
    A = symmetric_matrix(torch.linspace(-1, 4, 80, dtype=F64))
    for budget in (8, 15, 25, 40):
        result = eigsh(operator(A), k=3, ncv=12, tol=1e-14, max_matvecs=budget, seed=0)
        true = (result.eigenvectors @ A - result.eigenvalues[:, None] * result.eigenvectors).norm(dim=1)
        assert (true <= 1.001 * result.residuals).all()
        assert (result.residuals <= 10 * true + 1e-12).all()  # and they are no idle bounds
    # the defect: a first vector that is not quite right is taken out, and the second pair judged by what is left
    _, vectors = torch.linalg.eigh(A)
    first = vectors[:, -1] + 0.05 * vectors[:, -2]
    first = first / first.norm()
    deflated = A - (first @ A @ first) * torch.outer(first, first)
    theta, pairs = torch.linalg.eigh(deflated)
    second, value = pairs[:, -1], theta[-1]
    assert float((deflated @ second - value * second).norm()) <= 1e-12
    assert float((A @ second - value * second).norm()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_x31_low_precision_operators_are_solved(dtype: torch.dtype) -> None:
    """Lanczos raises on bf16 operators: here vectors are float32 at least."""
    spectrum = torch.cat([torch.linspace(0, 1, 57, dtype=F64), torch.tensor([10.0, 20.0, 40.0], dtype=F64)])
    A = symmetric_matrix(spectrum).to(dtype)
    result = eigsh(operator(A), k=2, tol=1e-2, seed=0)
    assert result.eigenvectors.dtype == torch.float32
    assert (result.eigenvalues - torch.tensor([40.0, 20.0], dtype=F64)).abs().max() <= 4 * torch.finfo(dtype).eps * 40
    with pytest.raises((RuntimeError, TypeError)):  # the defect: torch has no such decomposition in 16 bits
        torch.linalg.eigvalsh(A)


@pytest.mark.parametrize("budget", [1, 3, 8, 200])
def test_x37_eigenvectors_have_unit_norm_always(budget: int) -> None:
    """Unconverged eigenvectors are not normalised: here they are, converged or not."""
    A = symmetric_matrix(torch.linspace(0, 1, 100, dtype=F64))
    result = eigsh(operator(A), k=4, tol=1e-10, max_matvecs=budget, seed=0)
    norms = result.eigenvectors.norm(dim=1)
    assert (norms - 1).abs().max() <= 1e-13
    assert not (result.converged.all() and budget < 50)
    power = A @ (A @ start(100))  # the defect: what an iteration has when it is stopped
    assert abs(float(power.norm()) - 1) > 1e-3
