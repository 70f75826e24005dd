"""Subspace iteration on spectra that are known."""

import pytest
import torch

from acme_curvature import SubspaceIteration
from curvkit_core import LambdaOperator
from curvkit_core.algorithms import run

SPECTRUM = torch.tensor([-9.0, 6.0, 4.0, -2.0, 1.0, 0.5, *[0.1] * 14], dtype=torch.float64)


@pytest.fixture
def matrix():
    """A symmetric matrix with SPECTRUM, in a random basis."""
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(SPECTRUM) @ basis.mT


def operator_of(matrix):
    """The operator of a dense matrix."""
    return LambdaOperator(lambda v: matrix @ v, len(matrix), dtype=torch.float64)


def test_subspace_iteration_finds_the_largest_in_magnitude(matrix):
    """Signs kept, magnitudes descending; the error of an eigenvalue is at most its residual."""
    found = run(SubspaceIteration(k=4, tol=1e-8), operator_of(matrix))
    assert found.converged.all()
    assert (found.residuals <= 1e-8 * 9).all()
    assert (found.eigenvalues - SPECTRUM[:4]).abs().max() <= 1e-8 * 9
    gaps = found.eigenvectors @ matrix - found.eigenvalues[:, None] * found.eigenvectors
    rounding = 20 * torch.finfo(torch.float64).eps * 9
    assert (gaps.norm(dim=1) - found.residuals).abs().max() <= rounding
    assert found.residuals.max() > rounding


def test_subspace_iteration_residual_is_the_true_one_before_convergence(matrix):
    """After one round the pairs are rough, and say so."""
    found = run(SubspaceIteration(k=4, oversample=0, max_rounds=1), operator_of(matrix))
    gaps = found.eigenvectors @ matrix - found.eigenvalues[:, None] * found.eigenvectors
    assert torch.allclose(gaps.norm(dim=1), found.residuals, rtol=1e-10)
    assert found.residuals.max() > 0.1
    assert not found.converged.all()


def test_subspace_iteration_with_all_rows_is_exact_in_one_round(matrix):
    """With k = n the basis spans everything."""
    found = run(SubspaceIteration(k=20, oversample=0, max_rounds=1), operator_of(matrix))
    truth = SPECTRUM[SPECTRUM.abs().argsort(descending=True)]
    assert (found.eigenvalues - truth).abs().max() <= 20 * torch.finfo(torch.float64).eps * 9
    assert found.num_matvecs == 20


def test_subspace_iteration_counts_its_products(matrix):
    """The count is that of the calls."""
    calls = []
    operator = LambdaOperator(lambda v: calls.append(1) or matrix @ v, 20, dtype=torch.float64)
    found = run(SubspaceIteration(k=3, oversample=2, max_rounds=4, tol=1e-14), operator)
    assert found.num_matvecs == len(calls) == 20


def test_subspace_iteration_does_not_depend_on_how_many_rows_fit(matrix):
    """One row at a time, or all: the same start, the same rounds, the same pairs to rounding."""
    algorithm = SubspaceIteration(k=3, max_rounds=5, tol=1e-14)
    narrow = run(algorithm, operator_of(matrix), max_rows=1)
    wide = run(algorithm, operator_of(matrix), max_rows=64)
    assert torch.allclose(narrow.eigenvalues, wide.eigenvalues, rtol=1e-12)
    assert narrow.num_matvecs == wide.num_matvecs


def test_subspace_iteration_of_zero_is_zero():
    """A = 0 has converged after one round."""
    found = run(SubspaceIteration(k=2), operator_of(torch.zeros(5, 5, dtype=torch.float64)))
    assert found.eigenvalues.tolist() == [0.0, 0.0]
    assert found.converged.all()


def test_subspace_iteration_refuses_more_pairs_than_there_are(matrix):
    """Named with its value and the range."""
    with pytest.raises(ValueError, match=r"k=21 is out of range: expected 1 <= k <= 20"):
        run(SubspaceIteration(k=21), operator_of(matrix))
