"""How eigenpairs settled: each look is what the same run, stopped there, would have given, and its bounds are true."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from eigen_cases import SPECTRA, operator, residuals

from curvkit_core.algorithms import LOBPCG, BlockLanczos, Eigsh, run
from curvkit_core.algorithms.eigenpairs.history import MOST

EPS = torch.finfo(F64).eps
ALGORITHMS = {
    "eigsh": Eigsh(k=3, ncv=12, tol=1e-9, max_matvecs=60, seed=0),
    "eigsh full": Eigsh(k=3, ncv=12, tol=1e-9, max_matvecs=60, seed=0, reorthogonalize="full"),
    "eigsh both ends": Eigsh(k=3, ncv=12, tol=1e-9, max_matvecs=60, seed=0, which="BE"),
    "eigsh magnitude": Eigsh(k=3, ncv=12, tol=1e-9, max_matvecs=60, seed=0, which="LM"),
    "block": BlockLanczos(k=3, ncv=14, block_size=3, tol=1e-9, max_matvecs=60, seed=0),
    "block, uneven": BlockLanczos(k=2, ncv=11, block_size=4, tol=1e-9, max_matvecs=60, seed=0, which="BE"),
    "lobpcg": LOBPCG(k=3, tol=1e-6, max_matvecs=60, seed=0),
}


@pytest.mark.parametrize("spectrum", ["spread", "outliers"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_look_is_the_result_of_a_run_stopped_there(name: str, spectrum: str) -> None:
    """Before the first restart, between restarts and at them: values, and the true residuals of the vectors."""
    A = symmetric_matrix(SPECTRA[spectrum])
    algorithm = ALGORITHMS[name]
    history = run(algorithm, operator(A)).history
    assert len(history.num_matvecs) >= 5
    norm = float(SPECTRA[spectrum].abs().max())
    # what is claimed beyond a true residual is a random walk of 3 eps |A| sqrt(products), and twice a rounding
    floor = 100 * EPS * norm
    for i, count in enumerate(history.num_matvecs.tolist()):
        stopped = run(attrs.evolve(algorithm, max_matvecs=count), operator(A))
        assert stopped.num_matvecs == count
        assert (history.eigenvalues[i] - stopped.eigenvalues).abs().max() <= 1e3 * EPS * norm
        true = residuals(stopped, A)
        assert (true <= 1.01 * history.residuals[i] + 10 * EPS * norm).all()
        assert (history.residuals[i] <= 1.01 * true + floor).all()
        # a bound that is off by a hundredth of itself is told apart, where it stands out of rounding
        if i == 0:
            assert (true > 0.9 * history.residuals[i]).any()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_last_look_is_the_result(name: str) -> None:
    """Products, values and residuals, bit for bit; so also where products in bfloat16 limit the residuals."""
    A = symmetric_matrix(SPECTRA["outliers"])
    for dtype in (F64, torch.bfloat16):
        result = run(ALGORITHMS[name], operator(A, dtype))
        history = result.history
        assert history.num_matvecs.dtype == torch.int64
        assert int(history.num_matvecs[-1]) == result.num_matvecs
        assert torch.equal(history.eigenvalues[-1], result.eigenvalues)
        assert torch.equal(history.residuals[-1], result.residuals)
        assert (history.num_matvecs.diff() > 0).all()


def test_a_long_run_keeps_few_looks() -> None:
    """Hundreds of restarts: 64 looks at most, from early on to the end."""
    A = symmetric_matrix(torch.linspace(0, 1, 300, dtype=F64))
    result = run(Eigsh(k=2, ncv=5, tol=0.0, seed=0), operator(A))
    at = result.history.num_matvecs
    assert result.num_matvecs > 500
    assert MOST // 2 <= len(at) <= MOST
    assert at[0] <= result.num_matvecs // 8
    assert at[-1] == result.num_matvecs


def test_fewer_pairs_than_wanted_are_no_look() -> None:
    """Stopped after two products of three: None, and no number made up."""
    A = symmetric_matrix(SPECTRA["spread"])
    assert run(Eigsh(k=3, max_matvecs=2, seed=0), operator(A)).history is None
    one: Any = run(Eigsh(k=3, max_matvecs=3, seed=0), operator(A)).history
    assert one.num_matvecs.tolist() == [3]


def test_histories_are_compared_by_their_numbers() -> None:
    """Equal for the same seed, not for another."""
    A = symmetric_matrix(SPECTRA["spread"])
    one, same, other = (run(Eigsh(k=3, seed=seed), operator(A)).history for seed in (0, 0, 1))
    assert one == same
    assert one != other
