"""Eigenpairs against dense decompositions, over easy and awkward spectra."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, eigsh


def operator(A: Tensor, dtype: torch.dtype | None = None) -> LambdaOperator:
    A = A.to(dtype or A.dtype)
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def wanted(eigenvalues: Tensor, which: str, k: int) -> Tensor:
    """The k wanted ones of a dense spectrum, in the order that a result has."""
    up = eigenvalues.sort().values
    if which == "LA":
        return up.flip(0)[:k]
    if which == "SA":
        return up[:k]
    if which == "LM":
        return up[up.abs().argsort(descending=True)][:k]
    high = (k + 1) // 2
    return torch.cat([up[: k - high], up[len(up) - high :]])


SPECTRA = {
    "spread": torch.linspace(-3, 5, 60, dtype=F64),
    "outliers": torch.cat([torch.linspace(0, 1, 57, dtype=F64), torch.tensor([10.0, 20.0, 40.0], dtype=F64)]),
    "negative": -(torch.linspace(1, 9, 60, dtype=F64) ** 2),
    "power-law": torch.arange(1, 61, dtype=F64) ** -2.0,
    "low-rank": torch.cat([torch.zeros(56, dtype=F64), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)]),
}


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_pairs_match_the_dense_decomposition(name: str, which: str) -> None:
    """Values, true residuals within the bounds given, unit orthogonal rows; a value wrong by 1e-3 is told apart."""
    A = symmetric_matrix(SPECTRA[name])
    scale = float(SPECTRA[name].abs().max())
    result = eigsh(operator(A), k=5, which=which, tol=1e-9, seed=0)
    expected = wanted(SPECTRA[name], which, 5)
    tol = 1e-8 * scale
    assert result.converged.all()
    assert (result.eigenvalues - expected).abs().max() <= tol
    assert (result.eigenvalues + 1e-3 * scale - expected).abs().max() > tol
    residuals = (result.eigenvectors @ A - result.eigenvalues[:, None] * result.eigenvectors).norm(dim=1)
    assert (residuals <= result.residuals * 1.01 + 1e-300).all()
    assert (result.eigenvectors @ result.eigenvectors.mT - torch.eye(5, dtype=F64)).abs().max() <= 1e-12


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1.0, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_scale_with_the_operator(scale: float, dtype: torch.dtype) -> None:
    """A2: eigenvalues of cA are c times those of A, and the count of products is the same."""
    A = symmetric_matrix(SPECTRA["outliers"]).to(dtype)
    one = eigsh(operator(A), k=3, seed=0)
    other = eigsh(LambdaOperator(lambda v: (A @ v) * scale, 60, dtype=dtype), k=3, seed=0)
    assert torch.allclose(other.eigenvalues / scale, one.eigenvalues, rtol=1e-5)
    assert other.converged.all()


def test_there_are_no_ghosts() -> None:
    """X25: 100 and 90 over a bulk, 120 products: each value once, whatever the number of steps."""
    spectrum = torch.cat([torch.linspace(0, 1, 298, dtype=F64), torch.tensor([90.0, 100.0], dtype=F64)])
    A = symmetric_matrix(spectrum)
    result = eigsh(operator(A, torch.float32), k=6, ncv=120, tol=1e-12, seed=0, max_matvecs=240)
    assert result.num_matvecs >= 120
    assert torch.allclose(result.eigenvalues, wanted(spectrum, "LA", 6), atol=1e-3)


def test_rank_one_operator_gives_k_pairs() -> None:
    """X27: zeros fill up what rank 1 leaves; each has residual zero to rounding."""
    u = torch.randn(40, dtype=F64, generator=torch.Generator().manual_seed(0))
    A = torch.outer(u, u)
    result = eigsh(operator(A), k=5, seed=0)
    top = float(u @ u)
    assert len(result.eigenvalues) == 5
    assert result.converged.all()
    assert abs(float(result.eigenvalues[0]) - top) <= 1e-12 * top
    assert result.eigenvalues[1:].abs().max() <= 1e-12 * top


@pytest.mark.parametrize("n", [1, 2, 7])
def test_all_eigenpairs_of_a_small_operator(n: int) -> None:
    """k = n and n = 1 are exact after n products."""
    spectrum = torch.arange(1, n + 1, dtype=F64)
    result = eigsh(operator(symmetric_matrix(spectrum)), k=n, seed=0)
    assert torch.allclose(result.eigenvalues, spectrum.flip(0), rtol=1e-13)
    assert result.num_matvecs == n
    assert result.converged.all()


def test_identity_and_zero() -> None:
    """Every vector is an eigenvector: breakdown at each step, k pairs all the same."""
    for factor in (0.0, 3.0):
        result = eigsh(LambdaOperator(lambda v, c=factor: c * v, 30, dtype=F64), k=3, seed=0)
        assert (result.eigenvalues - factor).abs().max() <= 1e-14
        assert result.converged.all()


def test_n_of_four_million_keeps_six_digits() -> None:
    """X26: float32, 40 over a bulk in [0, 1]: 1e-6 relative, where float32 norms give 40.03."""
    n = 4_000_000
    diagonal = torch.linspace(0, 1, n)
    diagonal[:3] = torch.tensor([40.0, 30.0, 20.0])
    result = eigsh(LambdaOperator(lambda v: diagonal * v, n), k=3, ncv=12, seed=0, tol=1e-4)
    assert (result.eigenvalues / torch.tensor([40.0, 30.0, 20.0], dtype=F64) - 1).abs().max() <= 1e-6
    assert result.converged.all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operators_are_taken(dtype: torch.dtype) -> None:
    """X31: the operator rounds its argument and result to 2^-8 or 2^-11; vectors are float32."""
    A = symmetric_matrix(SPECTRA["outliers"])
    result = eigsh(operator(A, dtype), k=3, tol=1e-2, seed=0)
    tol = 4 * torch.finfo(dtype).eps * 40.0
    assert result.eigenvectors.dtype == torch.float32
    assert (result.eigenvalues - torch.tensor([40.0, 20.0, 10.0], dtype=F64)).abs().max() <= tol


def test_the_count_of_products_is_the_operators_own() -> None:
    """A3, and never more than max_matvecs; what has not converged says so."""
    A = symmetric_matrix(torch.linspace(0, 1, 200, dtype=F64))
    calls = []
    op = LambdaOperator(lambda v: (calls.append(1), A @ v)[1], 200, dtype=F64)
    result = eigsh(op, k=4, tol=1e-12, max_matvecs=30, seed=0)
    assert len(calls) == result.num_matvecs == result.info.num_matvecs == 30
    assert not result.converged.all()
    assert result.info.converged is False


def test_fewer_products_than_pairs_gives_what_there_is() -> None:
    A = symmetric_matrix(torch.linspace(0, 1, 50, dtype=F64))
    result = eigsh(operator(A), k=4, max_matvecs=2, seed=0)
    assert len(result.eigenvalues) == 2
    assert not result.converged.any()


def test_result_right_after_a_restart_is_right() -> None:
    """Stopped at every possible product: the bounds hold each time."""
    A = symmetric_matrix(SPECTRA["spread"])
    for budget in range(1, 60):
        result = eigsh(operator(A), k=4, ncv=12, tol=1e-13, max_matvecs=budget, seed=0)
        residuals = (result.eigenvectors @ A - result.eigenvalues[:, None] * result.eigenvectors).norm(dim=1)
        assert (residuals <= result.residuals * 1.001).all(), budget


def test_start_vector_is_used_and_checked() -> None:
    """From an eigenvector it is done at once in its direction; zero and another length are refused."""
    A = torch.diag(torch.arange(1.0, 31.0, dtype=F64))
    start = torch.zeros(30, dtype=F64)
    start[29] = 5.0
    result = eigsh(operator(A), k=1, start=start, max_matvecs=1)
    assert float(result.eigenvalues[0]) == 30.0
    assert result.seed is None
    with pytest.raises(ValueError, match=r"start has shape \(30,\) and norm 0.0"):
        eigsh(operator(A), k=1, start=torch.zeros(30, dtype=F64))
    with pytest.raises(ValueError, match=r"start has shape \(3,\): expected \(30,\)"):
        eigsh(operator(A), k=1, start=torch.ones(3))


def test_seeds_are_drawn_recorded_and_repeat() -> None:
    """None draws another one each time; the recorded one gives the same bits."""
    op = operator(symmetric_matrix(SPECTRA["spread"]))
    first, second = eigsh(op, k=2), eigsh(op, k=2)
    assert first.seed != second.seed
    again = eigsh(op, k=2, seed=first.seed)
    assert torch.equal(first.eigenvectors, again.eigenvectors)
    assert again.info.seed == first.seed


def test_options_out_of_range_are_named() -> None:
    op = operator(torch.eye(5, dtype=F64))
    with pytest.raises(ValueError, match="k=6 is out of range: expected 1 <= k <= 5"):
        eigsh(op, k=6)
    with pytest.raises(ValueError, match="'k' must be >= 1: 0"):
        eigsh(op, k=0)
    with pytest.raises(ValueError, match="ncv=3 is too small for k=3"):
        eigsh(op, k=3, ncv=3)
    with pytest.raises(ValueError, match="'which' must be in"):
        eigsh(op, which="LR")
    with pytest.raises(ValueError, match="seed=-1 is no seed"):
        eigsh(op, seed=-1)
    with pytest.raises(ValueError, match="Eigsh needs a symmetric operator"):
        eigsh(LambdaOperator(lambda v: v, 5, symmetric=False))
