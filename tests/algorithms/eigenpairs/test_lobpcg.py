"""LOBPCG against dense decompositions: right, preconditioned, and never singular."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from eigen_cases import SPECTRA, assert_honest, counted, matrices, residuals, rounding, wanted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, lobpcg
from curvkit_core.algorithms import LOBPCG, DiagonalPreconditioner, NystromPreconditioner, run


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", ["spread", "negative", "low-rank", "triple"])
def test_pairs_match_the_dense_decomposition(name: str, which: str) -> None:
    """Values to tol^2 |A| / gap; a value wrong by 1e-3 is told apart; a triple eigenvalue is there three times."""
    A = symmetric_matrix(SPECTRA[name])
    scale = float(SPECTRA[name].abs().max())
    op, calls = counted(A)
    result = lobpcg(op, k=5, which=which, tol=1e-7 if name == "triple" else 1e-9, seed=0, max_matvecs=1500)
    expected = wanted(A, which, 5)
    if name == "triple" and which == "SA":  # the smallest is 0: its residual must come to rounding
        assert_honest(result, A)
        return
    assert result.converged.all() and result.status == "converged"
    assert (result.eigenvalues - expected).abs().max() <= 1e-8 * scale
    assert (result.eigenvalues + 1e-3 * scale - expected).abs().max() > 1e-8 * scale
    assert_honest(result, A)
    assert len(calls) == result.num_matvecs == result.info.num_matvecs


@settings(max_examples=60)
@given(
    A=matrices(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    which=st.sampled_from(["LA", "SA"]),
    k=st.integers(1, 6),
    extra=st.integers(0, 4),
    seed=st.integers(0, 10),
)
def test_every_spectrum(A: Tensor, dtype: torch.dtype, which: str, k: int, extra: int, seed: int) -> None:
    """Honest residuals always; where converged, the wanted values to 20 times the tolerance, or rounding."""
    k = min(k, len(A))
    A = A.to(dtype).double()
    op, calls = counted(A, dtype)
    result = lobpcg(op, k=k, which=which, block_size=k + extra, tol=1e-8, seed=seed, max_matvecs=400)
    assert len(calls) == result.num_matvecs <= 400
    assert len(result.eigenvalues) == k
    assert_honest(result, A)
    if result.status == "converged":
        scale = float(torch.linalg.matrix_norm(A, 2))
        tol = 20 * max(1e-8 * scale, rounding(result, A))
        assert (result.eigenvalues - wanted(A, which, k)).abs().max() <= tol


@pytest.mark.parametrize("name", list(SPECTRA))
@pytest.mark.parametrize("tol", [1e-12, 0.0])
def test_float32_at_tight_tolerances_ends_with_a_status(name: str, tol: float) -> None:
    """No NaN and no singular Gram matrix: converged to rounding, or a status; far from its budget."""
    A = symmetric_matrix(SPECTRA[name]).float()
    result = lobpcg(counted(A)[0], k=3, tol=tol, seed=0, max_matvecs=1000)
    assert result.status in ("converged", "noise") and result.num_matvecs < 1000
    assert_honest(result, A)
    expected = wanted(A, "LA", 3)
    assert (result.eigenvalues - expected).abs().max() <= 20 * torch.finfo(torch.float32).eps * float(
        expected.abs().max()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("name", ["spread", "outliers", "power-law", "low-rank"])
def test_low_precision_operators_end_with_a_status(name: str, tol: float, dtype: torch.dtype) -> None:
    """X31: what is called converged is so by a product of the vector itself; where noise hides it, the status says so.

    Another product of the same vector would differ by noise of eps |A|: that much is allowed for.
    """
    A = symmetric_matrix(SPECTRA[name]).to(dtype).double()
    result = lobpcg(counted(A, dtype)[0], k=3, tol=tol, seed=0, max_matvecs=1000)
    noise = torch.finfo(dtype).eps * float(A.norm(p=2)) / 2
    gaps, targets = residuals(result, A), tol * result.eigenvalues.abs()
    assert (gaps[result.converged] <= targets[result.converged] + noise).all()
    assert (gaps <= result.residuals + noise).all()
    assert result.status in ("converged", "noise") and result.num_matvecs < 1000


def test_stopped_at_every_product_the_residuals_hold() -> None:
    """Nothing is called converged before its own product was made; budgets are kept; rows are split at will."""
    A = symmetric_matrix(SPECTRA["spread"])
    for budget in range(1, 60, 5):
        result = lobpcg(counted(A)[0], k=4, tol=1e-4, max_matvecs=budget, seed=0, max_rows=1 + budget % 3)
        assert result.num_matvecs <= budget
        assert len(result.eigenvalues) == min(4, budget)
        assert_honest(result, A, slack=1.001)
        gaps = residuals(result, A)[result.converged]
        assert (gaps <= 1.01e-4 * result.eigenvalues.abs()[result.converged]).all()


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_scale_with_the_operator(scale: float, dtype: torch.dtype) -> None:
    """A2."""
    A = symmetric_matrix(SPECTRA["outliers"])
    one = lobpcg(counted(A, dtype)[0], k=3, seed=0)
    other = lobpcg(counted(A, dtype, scale=scale)[0], k=3, seed=0)
    assert torch.allclose(other.eigenvalues / scale, one.eigenvalues, rtol=1e-5)
    assert other.converged.all()


def test_rows_at_once_change_nothing() -> None:
    A = symmetric_matrix(SPECTRA["spread"])
    one, many = (lobpcg(counted(A)[0], k=4, seed=0, max_rows=rows) for rows in (1, 16))
    assert torch.equal(one.eigenvectors, many.eigenvectors) and one.num_matvecs == many.num_matvecs


def stiff(n: int = 200) -> tuple[Tensor, Tensor]:
    """A diagonal over six decades with a small coupling, and its diagonal."""
    diagonal = torch.logspace(0, 6, n, dtype=F64)
    coupling = symmetric_matrix(torch.linspace(-0.3, 0.3, n, dtype=F64))
    return diagonal.diag() + coupling, diagonal + coupling.diagonal()


def test_a_preconditioner_saves_products_and_changes_no_answer() -> None:
    """The smallest eigenvalues of a stiff matrix: a fifth of the products at most; tensor and class are one."""
    A, diagonal = stiff()
    plain = lobpcg(counted(A)[0], k=3, which="SA", tol=1e-6, seed=0, max_matvecs=1000)
    helped = lobpcg(counted(A)[0], k=3, which="SA", tol=1e-6, seed=0, preconditioner=diagonal)
    assert helped.converged.all()
    assert (helped.eigenvalues - wanted(A, "SA", 3)).abs().max() <= 1e-8
    assert 5 * helped.num_matvecs < plain.num_matvecs
    same = lobpcg(
        counted(A)[0], k=3, which="SA", tol=1e-6, seed=0, preconditioner=DiagonalPreconditioner(diagonal=diagonal)
    )
    assert torch.equal(same.eigenvectors, helped.eigenvectors)
    wrong = lobpcg(counted(A)[0], k=3, which="SA", tol=1e-6, seed=0, preconditioner=diagonal.flip(0), max_matvecs=200)
    assert_honest(wrong, A)  # a bad one costs products, not truth


def test_a_low_rank_preconditioner_is_taken() -> None:
    """The Nystrom form of the exact eigenpairs of the upper part."""
    A = symmetric_matrix(torch.logspace(0, 5, 100, dtype=F64))
    values, vectors = torch.linalg.eigh(A)
    preconditioner = NystromPreconditioner(vectors=vectors.mT[20:].contiguous(), scales=values[20:] / values[20])
    result = lobpcg(counted(A)[0], k=3, which="SA", tol=1e-6, seed=0, preconditioner=preconditioner)
    assert result.converged.all() and result.num_matvecs < 300
    assert (result.eigenvalues - values[:3]).abs().max() <= 1e-6


def test_warm_start_saves_products() -> None:
    """From all eigenvectors of a neighbour: random rows fill the block up."""
    A = symmetric_matrix(torch.arange(1, 201, dtype=F64) ** -1.0)
    B = A + 1e-5 * symmetric_matrix(torch.linspace(-1, 1, 200, dtype=F64), seed=3)
    known = lobpcg(counted(A)[0], k=4, tol=1e-8, seed=0).eigenvectors
    cold = lobpcg(counted(B)[0], k=4, tol=1e-8, seed=0)
    warm = lobpcg(counted(B)[0], k=4, tol=1e-8, seed=0, start=known)
    assert warm.converged.all() and warm.num_matvecs < 0.8 * cold.num_matvecs


@pytest.mark.parametrize("stop", [1, 7, 8, 40, 100])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    """A4, with a preconditioner, which is given again; within a block, too."""
    A, diagonal = stiff(80)
    algorithm, inputs = LOBPCG(k=5, which="SA", tol=1e-9, seed=0), {"preconditioner": diagonal}
    whole = run(algorithm, counted(A)[0], inputs=inputs)
    run(algorithm, counted(A)[0], inputs=inputs, max_matvecs=stop, checkpoint=tmp_path / "run")
    resumed = run(algorithm, counted(A)[0], inputs=inputs, checkpoint=tmp_path / "run")
    for f in attrs.fields(type(whole)):
        x, y = getattr(whole, f.name), getattr(resumed, f.name)
        if f.name != "info":
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, f.name


def test_options_out_of_range_are_named() -> None:
    op = counted(torch.eye(5, dtype=F64))[0]
    with pytest.raises(ValueError, match="k=6 is out of range: expected 1 <= k <= 5"):
        lobpcg(op, k=6)
    with pytest.raises(ValueError, match="block_size=1 is below k=2"):
        lobpcg(op, k=2, block_size=1)
    with pytest.raises(ValueError, match="'which' must be in"):
        lobpcg(op, k=2, which="LM")
    with pytest.raises(ValueError, match="diagonal.0.=-1: expected finite numbers above 0"):
        lobpcg(op, k=2, preconditioner=-torch.ones(5))
    with pytest.raises(ValueError, match=r"preconditioner has shape \(4,\): expected \(5,\)"):
        lobpcg(op, k=2, preconditioner=torch.ones(4))
    with pytest.raises(ValueError, match="LOBPCG needs a symmetric operator"):
        lobpcg(LambdaOperator(lambda v: v, 5, symmetric=False), k=2)
