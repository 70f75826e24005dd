"""Block Lanczos against dense decompositions: repeated and clustered eigenvalues above all."""

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

from curvkit_core import LambdaOperator, block_lanczos, eigsh
from curvkit_core.algorithms import BlockLanczos, run


@pytest.mark.parametrize(
    ("name", "which"),
    [(name, which) for name in SPECTRA for which in ("LA", "SA", "LM", "BE") if name != "power-law" or which[0] == "L"],
)
@pytest.mark.parametrize("block_size", [1, 4])
def test_pairs_match_the_dense_decomposition(name: str, block_size: int, which: str) -> None:
    """Values to tol^2 |A| / gap, far below 1e-8; one wrong by 1e-3 is told apart; products are counted.

    The small end of the power law, where 1e-9 of an eigenvalue is 3e-13 |A|, takes too long for here.
    """
    A = symmetric_matrix(SPECTRA[name])
    scale = float(SPECTRA[name].abs().max())
    op, calls = counted(A)
    k = 3 if name == "triple" and block_size == 1 else 5
    result = block_lanczos(op, k=k, which=which, block_size=block_size, tol=1e-9, seed=0, max_matvecs=2000)
    expected = wanted(A, which, k)
    assert result.converged.all() and result.status == "converged"
    assert (result.eigenvalues - expected).abs().max() <= 1e-8 * scale
    assert (result.eigenvalues + 1e-3 * scale - expected).abs().max() > 1e-8 * scale
    assert_honest(result, A)
    assert len(calls) == result.num_matvecs == result.info.num_matvecs


@pytest.mark.parametrize("block_size", [3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_copies_up_to_the_block_size_are_found_at_once(block_size: int, seed: int) -> None:
    """Multiplicity 3: in the first basis, before rounding can bring copies in; a single vector has one of them then."""
    values = torch.cat([torch.linspace(0, 1, 197, dtype=F64), torch.tensor([2.0, 2.0, 2.0], dtype=F64)])
    A = symmetric_matrix(values, seed=seed)
    result = block_lanczos(counted(A)[0], k=3, block_size=block_size, tol=1e-6, seed=seed)
    assert (result.eigenvalues - 2.0).abs().max() <= 1e-10
    assert result.converged.all()
    few = block_lanczos(counted(A)[0], k=3, block_size=block_size, ncv=40, max_matvecs=40, seed=seed)
    single = eigsh(counted(A)[0], k=3, ncv=40, max_matvecs=40, seed=seed)
    assert int((few.eigenvalues > 1.9).sum()) == 3
    assert int((single.eigenvalues > 1.9).sum()) < 3


@settings(max_examples=60)
@given(
    A=matrices(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    which=st.sampled_from(["LA", "SA", "LM", "BE"]),
    k=st.integers(1, 6),
    block_size=st.integers(1, 5),
    seed=st.integers(0, 10),
)
def test_every_spectrum(A: Tensor, dtype: torch.dtype, which: str, k: int, block_size: int, seed: int) -> None:
    """Honest residuals always; where converged, the wanted values to 20 times the tolerance: 1e-8, or rounding.

    Clusters within 1e-9 and copies beyond the block size are no exception: their values agree to that. Where theta and
    -theta are both there, either is largest in magnitude.
    """
    k = min(k, len(A))
    A = A.to(dtype).double()
    op, calls = counted(A, dtype)
    result = block_lanczos(op, k=k, which=which, block_size=block_size, tol=1e-8, seed=seed, max_matvecs=400)
    assert len(calls) == result.num_matvecs <= 400
    assert len(result.eigenvalues) == k
    assert_honest(result, A)
    if result.status == "converged":
        scale = float(torch.linalg.matrix_norm(A, 2))
        tol = 20 * max(1e-8 * scale, rounding(result, A))
        found, expected = result.eigenvalues, wanted(A, which, k)
        if which == "LM":
            found, expected = found.abs(), expected.abs()
        assert (found - expected).abs().max() <= tol


@pytest.mark.parametrize("max_rows", [1, 2, 16])
def test_right_at_every_product_however_rows_are_split(max_rows: int) -> None:
    """Stopped after each product in turn: residuals hold, nothing is called converged that is not."""
    A = symmetric_matrix(SPECTRA["spread"])
    for budget in range(1, 40, 1 if max_rows == 2 else 7):
        result = block_lanczos(
            counted(A)[0], k=4, ncv=14, tol=1e-8, max_matvecs=budget, block_size=3, seed=0, max_rows=max_rows
        )
        assert result.num_matvecs <= budget
        assert len(result.eigenvalues) == min(4, budget)
        assert_honest(result, A, slack=1.001)
        assert (residuals(result, A)[result.converged] <= 1.01e-8 * result.eigenvalues.abs()[result.converged]).all()


def test_rows_at_once_change_nothing() -> None:
    """Bit for bit the same, where the operator multiplies rows one by one in any case."""
    A = symmetric_matrix(SPECTRA["spread"])
    one, many = (block_lanczos(counted(A)[0], k=4, tol=1e-8, seed=0, max_rows=rows) for rows in (1, 16))
    assert torch.equal(one.eigenvectors, many.eigenvectors)
    assert one.num_matvecs == many.num_matvecs


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_scale_with_the_operator(scale: float, dtype: torch.dtype) -> None:
    """A2: c times the eigenvalues, with as many products."""
    A = symmetric_matrix(SPECTRA["outliers"])
    one = block_lanczos(counted(A, dtype)[0], k=3, seed=0)
    other = block_lanczos(counted(A, dtype, scale=scale)[0], k=3, seed=0)
    assert torch.allclose(other.eigenvalues / scale, one.eigenvalues, rtol=1e-5)
    assert other.converged.all() and one.num_matvecs == other.num_matvecs


@pytest.mark.parametrize(("rank", "block_size"), [(0, 1), (0, 4), (1, 1), (1, 4), (4, 3), (30, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k_pairs_come_out_of_any_rank(rank: int, block_size: int, dtype: torch.dtype) -> None:
    """X27: the zero operator, low ranks and the identity (all of n = 30 equal): zeros fill up, copies are all found.

    An invariant basis ends the run: at most rank + k + 4 blocks of products.
    """
    values = torch.zeros(30, dtype=F64)
    values[:rank] = 2.0
    A = symmetric_matrix(values)
    result = block_lanczos(counted(A, dtype)[0], k=6, block_size=block_size, seed=1)
    expected = wanted(A, "LA", 6)
    assert (result.eigenvalues - expected).abs().max() <= 50 * torch.finfo(dtype).eps
    assert result.converged.all()
    assert_honest(result, A)
    assert result.num_matvecs <= min(30, rank + 6 + 4 * block_size)


def test_a_given_start_does_not_hide_what_is_wanted() -> None:
    """From an eigenvector of the smallest eigenvalue, block size 1: the basis is invariant at once, and goes on."""
    A = torch.diag(torch.arange(1.0, 31.0, dtype=F64))
    start = torch.zeros(30, dtype=F64)
    start[0] = 5.0
    result = block_lanczos(counted(A)[0], k=1, block_size=1, start=start, tol=1e-8, seed=0)
    assert abs(float(result.eigenvalues[0]) - 30.0) <= 1e-10


def test_warm_start_saves_products() -> None:
    """From the eigenvectors of a neighbour."""
    A = symmetric_matrix(torch.arange(1, 201, dtype=F64) ** -1.0)
    B = A + 1e-6 * symmetric_matrix(torch.linspace(-1, 1, 200, dtype=F64), seed=3)
    cold = block_lanczos(counted(B)[0], k=4, tol=1e-10, ncv=16, seed=0)
    known = block_lanczos(counted(A)[0], k=4, tol=1e-10, seed=0).eigenvectors
    warm = block_lanczos(counted(B)[0], k=4, tol=1e-10, ncv=16, seed=0, start=known)
    assert warm.converged.all() and warm.seed is None
    assert warm.num_matvecs < cold.num_matvecs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_low_precision_operators_end_with_a_status(name: str, tol: float, dtype: torch.dtype) -> None:
    """X31: what is called converged is so for the matrix itself; where noise hides it, the status says noise."""
    A = symmetric_matrix(SPECTRA[name]).to(dtype).double()
    result = block_lanczos(counted(A, dtype)[0], k=3, tol=tol, seed=0, max_matvecs=500)
    gaps, targets = residuals(result, A), tol * result.eigenvalues.abs()
    assert (gaps[result.converged] <= 1.05 * targets[result.converged]).all()
    assert (gaps <= 2.0 * result.residuals).all()
    assert result.status in ("converged", "noise") and result.num_matvecs < 500
    if tol == 1e-4 and dtype == torch.bfloat16:
        assert result.status == "noise"


@pytest.mark.parametrize("storage", ["host", "disk"])
def test_where_the_basis_lies_changes_nothing(storage: str) -> None:
    """The same values to rounding, and the eigenvectors on the device in any case."""
    A = symmetric_matrix(SPECTRA["spread"])
    here, there = (block_lanczos(counted(A)[0], k=3, seed=0, basis_storage=s) for s in ("device", storage))
    assert (here.eigenvalues - there.eigenvalues).abs().max() <= 1e-12
    assert_honest(there, A)


@pytest.mark.parametrize("basis_dtype", ["bfloat16", "float16", "float32"])
def test_a_coarser_basis_says_what_it_hides(basis_dtype: str) -> None:
    """True residuals are far above rounding, within those claimed; converged only where the tolerance is above both."""
    A = symmetric_matrix(SPECTRA["outliers"])
    for tol in (1e-1, 1e-5):
        result = block_lanczos(counted(A)[0], k=3, tol=tol, seed=0, basis_dtype=basis_dtype, max_matvecs=300)
        gaps = residuals(result, A)
        assert result.num_matvecs < 300
        assert (gaps <= result.residuals).all()
        assert (gaps[result.converged] <= tol * result.eigenvalues[result.converged]).all()
    eps = torch.finfo(getattr(torch, basis_dtype)).eps
    assert float(result.residuals[0]) >= eps * 40
    assert bool(result.converged.all()) is (basis_dtype == "float32")
    assert result.status == ("converged" if basis_dtype == "float32" else "noise")


@pytest.mark.parametrize("stop", [1, 4, 25, 26, 27, 28, 45])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    """A4: within a block, at the first full basis, at the noise's product, after the restart."""
    A = symmetric_matrix(SPECTRA["spread"])
    algorithm = BlockLanczos(k=5, tol=1e-9, seed=0)
    whole = run(algorithm, counted(A)[0])
    run(algorithm, counted(A)[0], max_matvecs=stop, checkpoint=tmp_path / "run")
    resumed = run(algorithm, counted(A)[0], checkpoint=tmp_path / "run")
    for f in attrs.fields(type(whole)):
        x, y = getattr(whole, f.name), getattr(resumed, f.name)
        if f.name != "info":
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, f.name


def test_a_non_finite_product_is_refused() -> None:
    from curvkit_core.algorithms import NonFiniteProductError

    A = symmetric_matrix(SPECTRA["spread"])
    calls: list[int] = []
    op = LambdaOperator(lambda v: (calls.append(1), A @ v / (len(calls) != 11))[1], 60, dtype=F64)
    with pytest.raises(NonFiniteProductError, match="product 1[12] of LambdaOperator"):
        block_lanczos(op, k=4, seed=0)


def test_options_out_of_range_are_named() -> None:
    op = counted(torch.eye(5, dtype=F64))[0]
    with pytest.raises(ValueError, match="k=6 is out of range: expected 1 <= k <= 5"):
        block_lanczos(op, k=6)
    with pytest.raises(ValueError, match="ncv=3 is too small for k=2 and block_size=2: expected 4 <= ncv <= 5"):
        block_lanczos(op, k=2, block_size=2, ncv=3)
    with pytest.raises(ValueError, match=r"start has shape \(3, 5\) .* expected 1 to 2 finite vectors"):
        block_lanczos(op, k=2, block_size=2, start=torch.ones(3, 5, dtype=F64))
    with pytest.raises(ValueError, match="none of them zero"):
        block_lanczos(op, k=2, start=torch.zeros(5, dtype=F64))
    with pytest.raises(ValueError, match="'basis_storage' must be in"):
        block_lanczos(op, k=2, basis_storage="cloud")
    with pytest.raises(ValueError, match="BlockLanczos needs a symmetric operator"):
        block_lanczos(LambdaOperator(lambda v: v, 5, symmetric=False), k=2)
