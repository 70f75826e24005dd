"""Singular values of matrices that are known."""

import pytest
import torch

from curvkit_core import LambdaOperator, load_result, save_result
from curvkit_core.algorithms import run
from curvkit_core.testing import matrix_with
from krylov_svd import BlockKrylovSVD, SVDResult

F64 = torch.float64


def operator_of(matrix):
    """The operator of a dense matrix."""
    return LambdaOperator(lambda v: matrix @ v, len(matrix), dtype=F64)


def test_finds_the_largest_of_either_sign():
    """Singular values are magnitudes: -9 comes first."""
    matrix = matrix_with(torch.tensor([-9.0, 6.0, 4.0, -2.0, *[0.1] * 46], dtype=F64))
    found = run(BlockKrylovSVD(k=3, depth=3), operator_of(matrix))
    assert (found.singular_values - torch.tensor([9.0, 6.0, 4.0], dtype=F64)).abs().max() <= 1e-12 * 9
    assert found.residuals.max() <= 1e-6 * 9


def test_krylov_beats_subspace_iteration_on_a_slow_decay():
    """The paper's point: at the same power, the span of all blocks is far better than that of the last.

    The last block alone is `depth` = 0 on A^9.
    """
    spectrum = 1.0 / torch.arange(1, 201, dtype=F64) ** 0.5
    matrix = matrix_with(spectrum)
    krylov = run(BlockKrylovSVD(k=5, oversample=0, depth=4), operator_of(matrix))
    powered = torch.linalg.matrix_power(matrix, 9)
    start = krylov_start(200)
    Q, _ = torch.linalg.qr((start @ powered).mT)
    last = torch.linalg.svdvals(Q.mT @ matrix)[:5]
    errors = [(spectrum[:5] - values).abs().max() for values in (krylov.singular_values, last)]
    assert errors[0] < errors[1] / 20


def krylov_start(n):
    """The start block of seed 0."""
    op = operator_of(torch.eye(n, dtype=F64))
    return op.space.random("gaussian", 0, 0, 5)


def test_with_a_span_of_everything_it_is_exact():
    """The blocks fill the space: all singular values, and as many products as were needed."""
    matrix = matrix_with(torch.linspace(-3.0, 2.0, 12, dtype=F64))
    found = run(BlockKrylovSVD(k=12, oversample=0, depth=5), operator_of(matrix))
    truth = torch.linalg.svdvals(matrix)
    assert (found.singular_values - truth).abs().max() <= 1e-12 * 3
    assert found.residuals.max() <= 1e-12 * 3
    assert found.num_matvecs == 12 + 12 + 12


def test_the_result_is_kept_and_read_back(tmp_path):
    """With its class, where that is handed in."""
    found = run(BlockKrylovSVD(k=2), operator_of(matrix_with(torch.linspace(1, 2, 20, dtype=F64))))
    save_result(found, tmp_path / "svd")
    again = load_result(tmp_path / "svd", types=[SVDResult])
    assert isinstance(again, SVDResult)
    assert torch.equal(again.singular_values, found.singular_values)


def test_more_triplets_than_there_are_is_refused():
    """Named with its value and the range."""
    with pytest.raises(ValueError, match=r"k=9 is out of range: expected 1 <= k <= 4"):
        run(BlockKrylovSVD(k=9), operator_of(torch.eye(4, dtype=F64)))
