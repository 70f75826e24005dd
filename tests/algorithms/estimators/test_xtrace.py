"""XTrace against its definition, with every QR decomposition made anew; its error bars, counts and exact cases."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import matrices, operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import trace
from curvkit_core.algorithms import Hutchinson, XTrace, run

N, EPS = 60, torch.finfo(F64).eps
DECAY = torch.arange(1, N + 1, dtype=F64) ** -2.0
MIXED = symmetric_matrix(DECAY) + 0.1 * symmetric_matrix(torch.linspace(-1, 1, N, dtype=F64), seed=1)
PROBES = ("rademacher", "gaussian", "sphere")


def twin(A: Tensor, tests: Tensor, probes: str) -> Tensor:
    """The k estimates by the book: tests are rows; the projector is made anew without each, by its singular vectors."""
    n, k = len(A), len(tests)
    found = []
    for i in range(k):
        others = torch.cat([tests[:i], tests[i + 1 :]])
        U, sigma, _ = torch.linalg.svd((others @ A.mT).mT, full_matrices=False)
        U = U[:, sigma > 1e-12 * sigma.max()] if k > 1 else U
        outside = tests[i] - U @ (U.mT @ tests[i])
        factor = 1.0 if probes == "rademacher" else (n - U.shape[1]) / float(outside @ outside)
        found.append(float((U.mT @ A @ U).trace() + factor * (outside @ A @ outside)))
    return torch.tensor(found, dtype=F64)


def jackknife(A: Tensor, tests: Tensor, probes: str) -> float:
    """The standard error by the book: root of root of the naive variance times the jackknife's."""
    samples = twin(A, tests, probes)
    means = torch.stack([twin(A, torch.cat([tests[:j], tests[j + 1 :]]), probes).mean() for j in range(len(tests))])
    naive = float(samples.var()) / len(samples)
    return float((naive * float((means - means.mean()).square().sum())) ** 0.25)


@pytest.mark.parametrize("probes", PROBES)
def test_xtrace_is_its_definition(probes: str) -> None:
    """Samples and standard error are those of the twin, for an operator that is not symmetric, to rounding."""
    A = MIXED[:30, :30] + 0.1 * torch.randn(30, 30, dtype=F64, generator=torch.Generator().manual_seed(0)).triu()
    op = operator(A, symmetric=False)
    result = trace(op, method="xtrace", num_matvecs=16, probes=probes, seed=3)
    tests = op.space.random(probes, 3, 0, 8)
    tol = 1e4 * EPS * float(A.norm())  # condition of an 8-column sketch is below 1e3, and sums have 30 terms
    assert len(result.samples) == 8
    assert result.num_matvecs == 16
    assert float((result.samples - twin(A, tests, probes)).abs().max()) <= tol
    assert result.stderr == pytest.approx(jackknife(A, tests, probes), rel=1e-9)
    assert float((result.samples - twin(A + 1e-3 * torch.eye(30, dtype=F64), tests, probes)).abs().max()) > tol


@settings(max_examples=40, deadline=None)
@given(A=matrices(24), seed=st.integers(0, 1000), probes=st.sampled_from(PROBES))
def test_xtrace_is_its_definition_on_any_spectrum(A: Tensor, seed: int, probes: str) -> None:
    """Clustered, repeated, zero, low rank, wild and indefinite: the mean is the twin's.

    Where the sketch has a lower rank than columns, or directions below rounding, its range is not unique: the twin
    leaves them out, ours keeps any. What both miss is at rounding level then, so the tolerance is that of the trace.
    """
    op = operator(A)
    result = trace(op, method="xtrace", num_matvecs=12, probes=probes, seed=seed)
    expected = twin(A, op.space.random(probes, seed, 0, 6), probes)
    # below rank 5 c_i differs: the twin's projector is smaller; what it multiplies is zero
    assert float((result.samples - expected).abs().max()) <= 1e-7 * float(A.norm())


@pytest.mark.parametrize("probes", ["rademacher", "sphere"])
def test_xtrace_is_unbiased_and_its_error_bar_honest(probes: str) -> None:
    """200 seeds: the mean within 4.5 of its standard errors, 95 % bars cover 88 to 99.5 %, half as long ones less."""
    truth = float(MIXED.trace())
    results = [trace(operator(MIXED), method="xtrace", num_matvecs=30, probes=probes, seed=s) for s in range(200)]
    estimates = torch.tensor([r.estimate for r in results], dtype=F64)
    errors = torch.tensor([r.stderr for r in results], dtype=F64)
    spread = float(estimates.std())
    assert abs(float(estimates.mean()) - truth) <= 4.5 * spread / 200**0.5
    assert spread < 0.1 * truth

    def covered(bars: Tensor) -> float:
        return float(((estimates - truth).abs() <= 1.96 * bars).double().mean())

    assert 0.88 <= covered(errors) <= 0.995
    assert covered(0.5 * errors) < 0.88


def test_the_samples_are_not_independent() -> None:
    """Taken as independent, as the paper takes them, their spread gives bars of 95 % that cover less than 88 %."""
    A = symmetric_matrix(DECAY)
    results = [trace(operator(A), method="xtrace", num_matvecs=30, probes="sphere", seed=s) for s in range(100)]
    off = [abs(r.estimate - float(A.trace())) for r in results]
    as_independent = [float(r.samples.std()) / len(r.samples) ** 0.5 for r in results]
    assert sum(a <= 1.96 * b for a, b in zip(off, as_independent, strict=True)) < 88
    assert 88 <= sum(a <= 1.96 * r.stderr for a, r in zip(off, results, strict=True)) < 100


@pytest.mark.parametrize("probes", ["rademacher", "sphere"])
def test_xtrace_beats_hutchinson_tenfold_on_a_power_law(probes: str) -> None:
    """The same products, root mean square error over 50 seeds."""
    A = symmetric_matrix(torch.arange(1, 201, dtype=F64) ** -2.0)
    truth = float(A.trace())
    rms = {
        method: sum((trace(operator(A), method=method, num_matvecs=40, probes=probes, seed=s).estimate - truth) ** 2
                    for s in range(50)) ** 0.5
        for method in ("hutchinson", "xtrace")
    }  # fmt: skip
    assert rms["xtrace"] <= 0.1 * rms["hutchinson"]


def test_exact_cases_are_exact() -> None:
    """Multiples of I with probes of no preferred direction; low rank; zero; as many products as dimensions."""
    for factor in (1.0, -3.0, 1e-20):
        op = operator(factor * torch.eye(50, dtype=F64))
        result = trace(op, method="xtrace", num_matvecs=20, probes="sphere", seed=0)
        assert result.estimate == pytest.approx(50 * factor, rel=1e-12)
        assert result.stderr <= 1e-12 * 50 * abs(factor)
    low = symmetric_matrix(torch.cat([torch.zeros(45, dtype=F64), torch.arange(-1, 4, dtype=F64)]))
    for probes in PROBES:
        result = trace(operator(low), method="xtrace", num_matvecs=20, probes=probes, seed=1)
        assert result.estimate == pytest.approx(5.0, rel=1e-11)
        assert result.stderr <= 1e-11
    zero = trace(operator(torch.zeros(30, 30, dtype=F64)), method="xtrace", num_matvecs=20, seed=0)
    assert (zero.estimate, zero.stderr) == (0.0, 0.0)
    calls: list[int] = []
    whole = trace(operator(MIXED, calls), method="xtrace", num_matvecs=99, seed=0)
    assert whole.estimate == pytest.approx(float(MIXED.trace()), rel=1e-13)
    assert (whole.stderr, whole.status, whole.num_matvecs, len(calls)) == (0.0, "exact", N, N)


def test_xtrace_is_hutchinson_until_there_is_a_range() -> None:
    """Stopped after any product: the test vectors multiplied so far, then the leave-one-out estimates."""
    whole = run(XTrace(num_matvecs=12, seed=5), operator(MIXED))
    for products in range(1, 12):
        calls: list[int] = []
        cut = run(XTrace(num_matvecs=12, seed=5), operator(MIXED, calls), max_matvecs=products)
        plain = run(
            Hutchinson(num_matvecs=max(2, min(products, 6)), seed=5), operator(MIXED), max_matvecs=min(products, 6)
        )
        assert cut.num_matvecs == len(calls) == products
        assert cut.estimate == pytest.approx(plain.estimate, rel=1e-12)
        assert cut.stderr == (pytest.approx(plain.stderr, rel=1e-10) if products > 1 else float("inf"))
        assert cut.info.interrupted == "matvecs"
    assert whole.stderr < cut.stderr


def test_a_range_that_grows_uses_all_products() -> None:
    """By stages of a tolerance or at once: the same estimates, to rounding, also of a low rank."""
    spiked = torch.cat([DECAY, torch.zeros(60, dtype=F64)])
    for A in (symmetric_matrix(spiked), symmetric_matrix(torch.where(torch.arange(120) < 23, 1.0, 0.0).double())):
        calls: list[int] = []
        staged = trace(operator(A, calls), method="xtrace", num_matvecs=99, tol=1e-13, seed=2)
        at_once = trace(operator(A), method="xtrace", num_matvecs=staged.num_matvecs, seed=2)
        assert len(calls) == staged.num_matvecs
        assert float((staged.samples - at_once.samples).abs().max()) <= 1e-10 * float(A.norm())
    zero: list[int] = []
    stopped = trace(operator(torch.zeros(100, 100, dtype=F64), zero), method="xtrace", tol=1e-3, seed=0)
    assert (stopped.estimate, stopped.converged, len(zero)) == (0.0, True, 40)


def test_a_basis_vector_in_the_place_of_a_lost_one_is_orthogonal() -> None:
    """Rank 22 met in the second stage, of 25: its sketch is zero but for rounding, or all but for two rows."""
    A = torch.where(torch.arange(120) < 22, 1.0, 0.0).double().diag()
    algorithm, op = XTrace(num_matvecs=99, tol=1e-16, seed=4), operator(A)
    state = algorithm.init(op.space)
    while (V := algorithm.ask(state, 16)) is not None:
        state = algorithm.tell(op.space, state, V, op.apply(V))
    Q = state.basis.rows(op.space, 0, state.basis.size)
    assert float((Q @ Q.mT - torch.eye(len(Q), dtype=F64)).abs().max()) <= 100 * EPS
    assert algorithm.result(op.space, state).estimate == pytest.approx(22.0, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_has_no_bias_of_its_own(dtype: torch.dtype) -> None:
    """One eigenvalue a thousand times the rest: 60 seeds, mean within 4.5 standard errors of the rounded matrix's."""
    A = symmetric_matrix(torch.cat([torch.tensor([1e3], dtype=F64), torch.ones(79, dtype=F64)])).to(dtype)
    truth = float(A.double().trace())
    estimates = torch.tensor(
        [trace(operator(A), method="xtrace", num_matvecs=16, probes="sphere", seed=s).estimate for s in range(60)],
        dtype=F64,
    )
    rounding = 4 * torch.finfo(dtype).eps * 1e3 / 60**0.5
    assert abs(float(estimates.mean()) - truth) <= 4.5 * float(estimates.std()) / 60**0.5 + rounding
    assert float(estimates.std()) < 0.05 * truth
