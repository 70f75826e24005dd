"""Eigenpairs against dense decompositions, over easy and awkward spectra."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from eigen_cases import SPECTRA, operator, residuals, wanted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, eigsh
from curvkit_core.algorithms import NonFiniteProductError


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "triple"])  # one start vector finds one of three
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
    assert (residuals(result, A) <= result.residuals * 1.01 + 1e-300).all()
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


SCALES = [1e-20, 1e-6, 1.0, 1e20]


@st.composite
def spectra(draw: st.DrawFn) -> tuple[str, Tensor]:
    """A kind and eigenvalues, ascending: n from 1 to 36, of magnitude 1e-20 to 1e20."""
    kind = draw(st.sampled_from(["uniform", "clustered", "repeated", "low-rank", "negative", "wild"]))
    n = draw(st.integers(1, 36))
    values = torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31)))) * 2 - 1
    if kind == "clustered":  # three clusters of width 1e-5
        values = torch.tensor([-1.0, 0.5, 1.0], dtype=F64)[torch.arange(n) % 3] + 1e-5 * values
    elif kind == "repeated":
        values = torch.tensor([-1.0, 0.0, 0.25, 1.0, 0.5], dtype=F64)[torch.arange(n) % 5]
    elif kind == "low-rank":
        values[n // 4 :] = 0.0
    elif kind == "negative":
        values = -values.abs() - 0.1
    elif kind == "wild":  # from 1e-20 to 1e20 in one operator
        values = 10.0 ** (20.0 * values)
    return kind, values.sort().values * draw(st.sampled_from(SCALES if kind != "wild" else [1.0]))


@given(drawn=spectra(), which=st.sampled_from(["LA", "SA", "LM", "BE"]), share=st.floats(0, 1), seed=st.integers(0, 99))
@example(drawn=("uniform", torch.ones(1, dtype=F64)), which="LA", share=1.0, seed=0)
@settings(max_examples=100, deadline=None)
def test_any_spectrum_agrees_with_its_dense_decomposition(
    drawn: tuple[str, Tensor], which: str, share: float, seed: int
) -> None:
    """Each pair is one of A to its bound, none is given more often than it is there, no value in between is left out.

    Copies of a repeated value may be missing, and come in the dense order otherwise.
    """
    kind, spectrum = drawn
    n = len(spectrum)
    k = max(1, round(share * n))
    A = symmetric_matrix(spectrum)
    count = []
    op = LambdaOperator(lambda v: (count.append(1), A @ v)[1], n, dtype=F64)
    result = eigsh(op, k=k, which=which, tol=1e-10, seed=seed)
    scale = float(spectrum.abs().max())
    tol = 1e-8 * scale  # residuals of 1e-10 times eigenvalues, and gaps of 1e-5 and more, or none
    assert len(count) == result.num_matvecs < 1000
    assert result.status == "converged" and result.converged.all()
    assert (residuals(result, A) <= result.residuals * 1.01).all()
    assert (result.eigenvectors @ result.eigenvectors.mT - torch.eye(k, dtype=F64)).abs().max() <= 1e-12

    def agrees(values: Tensor) -> bool:
        expected = wanted(spectrum, which, k)
        if kind not in ("repeated", "low-rank"):
            return bool((values.sort().values - expected.sort().values).abs().max() <= tol)
        times = [int(((values - v).abs() <= tol).sum()) for v in values]
        there = [int(((spectrum - v).abs() <= tol).sum()) for v in values]
        distinct = spectrum.unique()
        found = [bool(((values - v).abs() <= tol).any()) for v in distinct]
        if which == "SA":
            found = found[::-1]
        complete = which in ("LM", "BE") or all(found[len(found) - sum(found) :])
        return all(a <= b for a, b in zip(times, there, strict=True)) and complete

    assert agrees(result.eigenvalues)
    assert scale == 0.0 or not agrees(result.eigenvalues + 1e-3 * scale)


def test_a_repeated_eigenvalue_needs_a_block_or_luck() -> None:
    """5 is there three times: once is what one start vector is sure to see, and the result says so."""
    spectrum = torch.cat([torch.linspace(0, 1, 297, dtype=F64), torch.full((3,), 5.0, dtype=F64)])
    result = eigsh(LambdaOperator(lambda v: spectrum * v, 300, dtype=F64), k=3, seed=0)
    fives = int((result.eigenvalues - 5.0).abs().le(1e-8).sum())
    assert 1 <= fives <= 3
    assert "fewer times than it is there" in result.info.error_covers
    assert float(result.eigenvalues[fives:].max(dim=0).values if fives < 3 else 0.0) <= 1.0 + 1e-8


def test_an_invariant_start_does_not_end_the_search() -> None:
    """A start in the span of ncv eigenvectors without the largest: its breakdown comes when the basis is full."""
    spectrum = torch.arange(1, 101, dtype=F64)
    start = torch.zeros(100, dtype=F64)
    start[40:46] = 1.0
    op = LambdaOperator(lambda v: spectrum * v, 100, dtype=F64)
    result = eigsh(op, k=2, ncv=6, start=start, tol=1e-8)
    assert (result.eigenvalues - torch.tensor([100.0, 99.0], dtype=F64)).abs().max() <= 1e-6
    assert result.num_matvecs > 6


def test_several_start_rows_are_a_warm_start() -> None:
    """The eigenvectors of a nearby operator save products; every one of their directions is in the sum."""
    generator = torch.Generator().manual_seed(1)
    n = 300
    A = symmetric_matrix(torch.cat([torch.linspace(0, 8, n - 5, dtype=F64), torch.linspace(10, 14, 5, dtype=F64)]))
    E = torch.randn(n, n, dtype=F64, generator=generator) * 1e-4
    before = eigsh(operator(A), k=5, tol=1e-6, seed=0)
    cold = eigsh(operator(A + (E + E.mT) / 2), k=5, tol=1e-6, seed=0)
    warm = eigsh(operator(A + (E + E.mT) / 2), k=5, tol=1e-6, start=before.eigenvectors)
    assert warm.converged.all() and cold.converged.all()
    assert warm.num_matvecs < cold.num_matvecs
    assert (warm.eigenvalues - cold.eigenvalues).abs().max() <= 1e-6
    with pytest.raises(ValueError, match=r"start has rows of norm \[1.0, 0.0\]: expected finite vectors, none"):
        eigsh(operator(A), k=5, start=torch.eye(2, n, dtype=F64) * torch.tensor([[1.0], [0.0]]))


def test_a_product_that_is_not_finite_in_the_middle() -> None:
    """Which product and which element."""
    calls: list[int] = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return torch.where(torch.arange(50) == 17, torch.inf, v) if len(calls) == 9 else torch.arange(50.0) * v

    with pytest.raises(NonFiniteProductError, match="product 9 of LambdaOperator.* first in element 17"):
        eigsh(LambdaOperator(product, 50), k=3, seed=0)


def test_partial_reorthogonalization_refuses_a_rounded_basis() -> None:
    """Its estimate would claim residuals that are not there."""
    op = operator(symmetric_matrix(SPECTRA["spread"]))
    with pytest.raises(ValueError, match="reorthogonalize='partial' with basis_dtype='bfloat16'"):
        eigsh(op, k=2, reorthogonalize="partial", basis_dtype="bfloat16")
    assert eigsh(op, k=2, reorthogonalize="partial", basis_dtype="float64", seed=0).converged.all()
