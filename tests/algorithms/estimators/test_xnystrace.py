"""XNysTrace against its definition, with every Nystrom approximation made anew; what an indefinite operator gets."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import matrices, operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import trace
from curvkit_core.algorithms import XNysTrace, run

N, EPS = 60, torch.finfo(F64).eps
DECAY = torch.arange(1, N + 1, dtype=F64) ** -2.0
BULK = symmetric_matrix(torch.cat([DECAY, torch.full((60,), 0.01, dtype=F64)]))
PROBES = ("rademacher", "gaussian", "sphere")


def twin(A: Tensor, tests: Tensor, probes: str) -> Tensor:
    """The k estimates by the book, tests as rows: the root of A makes the approximation a projection, with no ridge."""
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0.0).sqrt()
    n, k = len(A), len(tests)
    found = []
    for i in range(k):
        others = torch.cat([tests[:i], tests[i + 1 :]])
        U, sigma, _ = torch.linalg.svd((others @ root).mT, full_matrices=False)
        U = U[:, sigma > 1e-7 * sigma.max()] if k > 1 else U
        rest = root @ root.mT - (root @ U) @ (root @ U).mT
        V = torch.linalg.svd(others.mT, full_matrices=False)[0]
        outside = tests[i] - V @ (V.mT @ tests[i])
        factor = 1.0 if probes == "rademacher" else (n - k + 1) / float(outside @ outside)
        found.append(float(A.trace() - rest.trace() + factor * (tests[i] @ rest @ tests[i])))
    return torch.tensor(found, dtype=F64)


@pytest.mark.parametrize("probes", PROBES)
def test_xnystrace_is_its_definition(probes: str) -> None:
    """Samples and standard error are those of the twin, but for the ridge: 4 sqrt(k) eps |K| against A's n eigenvalues.

    The ridge moves an estimate by about itself times the condition of Omega, and the twin works with roots of A.
    """
    A = BULK[:40, :40]
    op = operator(A)
    result = trace(op, method="xnystrace", num_matvecs=9, probes=probes, seed=3)
    tests = op.space.random(probes, 3, 0, 9)
    expected = twin(A, tests, probes)
    assert len(result.samples) == result.num_matvecs == 9
    tol = 1e4 * EPS * 40 * float(A.norm())
    assert float((result.samples - expected).abs().max()) <= tol
    assert float((result.samples - twin(1.001 * A, tests, probes)).abs().max()) > tol
    means = torch.stack([twin(A, torch.cat([tests[:j], tests[j + 1 :]]), probes).mean() for j in range(9)])
    naive = float(expected.var()) / 9
    jackknife = float((naive * float((means - means.mean()).square().sum())) ** 0.25)
    assert result.stderr == pytest.approx(jackknife, rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(A=matrices(24, semidefinite=True), seed=st.integers(0, 1000), probes=st.sampled_from(PROBES))
def test_xnystrace_is_its_definition_on_any_spectrum(A: Tensor, seed: int, probes: str) -> None:
    """Clustered, repeated, zero, low rank and wild: each estimate is the twin's, to the root of the ridge.

    Directions of A below the ridge are in the twin's approximation or not as rounding has it.
    """
    op = operator(A)
    result = trace(op, method="xnystrace", num_matvecs=6, probes=probes, seed=seed)
    expected = twin(A, op.space.random(probes, seed, 0, 6), probes)
    assert result.status == "estimated"
    assert float((result.samples - expected).abs().max()) <= 1e-5 * float(A.norm())


@pytest.mark.parametrize("probes", ["rademacher", "sphere"])
def test_xnystrace_is_unbiased_and_its_error_bar_honest(probes: str) -> None:
    """200 seeds: the mean within 4.5 of its standard errors, 95 % bars cover 88 to 99.5 %, half as long ones less."""
    truth = float(BULK.trace())
    results = [trace(operator(BULK), method="xnystrace", num_matvecs=20, probes=probes, seed=s) for s in range(200)]
    estimates = torch.tensor([r.estimate for r in results], dtype=F64)
    errors = torch.tensor([r.stderr for r in results], dtype=F64)
    spread = float(estimates.std())
    assert abs(float(estimates.mean()) - truth) <= 4.5 * spread / 200**0.5
    assert spread < 0.05 * truth
    assert 0.88 <= float(((estimates - truth).abs() <= 1.96 * errors).double().mean()) <= 0.995
    assert float(((estimates - truth).abs() <= 0.98 * errors).double().mean()) < 0.88


def test_an_indefinite_operator_gets_a_status_and_no_number() -> None:
    """Whether the negative part is large, or one part in a hundred of a decaying spectrum; with a tolerance as well."""
    mild = symmetric_matrix(torch.cat([DECAY, torch.full((10,), -0.01, dtype=F64)]))
    for A in (symmetric_matrix(torch.linspace(-1, 1, 80, dtype=F64)), mild, -BULK):
        for tol in (None, 1e-2):
            calls: list[int] = []
            result = trace(operator(A, calls), method="xnystrace", num_matvecs=60, tol=tol, seed=0)
            assert result.status == "indefinite"
            assert result.estimate != result.estimate
            assert result.stderr == float("inf")
            assert not result.converged
            assert len(calls) == result.num_matvecs == (60 if tol is None else 20)
    with pytest.raises(ValueError, match="Trace needs a symmetric operator"):
        trace(operator(mild, symmetric=False), method="xnystrace")


def test_exact_cases_are_exact() -> None:
    """Multiples of I with probes of no preferred direction; low rank; zero; as many products as dimensions."""
    for factor in (1.0, 1e-20, 1e20):
        op = operator(factor * torch.eye(50, dtype=F64))
        result = trace(op, method="xnystrace", num_matvecs=20, probes="sphere", seed=0)
        assert result.estimate == pytest.approx(50 * factor, rel=1e-11)
        assert result.stderr <= 1e-10 * 50 * factor
    low = symmetric_matrix(torch.cat([torch.zeros(45, dtype=F64), torch.arange(1, 6, dtype=F64)]))
    for probes in PROBES:
        result = trace(operator(low), method="xnystrace", num_matvecs=20, probes=probes, seed=1)
        assert result.estimate == pytest.approx(15.0, rel=1e-10)
        assert result.stderr <= 1e-9
    zero = trace(operator(torch.zeros(30, 30, dtype=F64)), method="xnystrace", num_matvecs=20, seed=0)
    assert (zero.estimate, zero.stderr, zero.status) == (0.0, 0.0, "estimated")
    whole = trace(operator(-BULK), method="xnystrace", num_matvecs=120, seed=0)
    assert whole.estimate == pytest.approx(-float(BULK.trace()), rel=1e-13)
    assert (whole.stderr, whole.status, whole.num_matvecs) == (0.0, "exact", 120)


def test_any_number_of_products_gives_an_estimate() -> None:
    """Stopped after any product: the same as with that many from the beginning."""
    for products in range(2, 12):
        cut = run(XNysTrace(num_matvecs=12, seed=5), operator(BULK), max_matvecs=products)
        whole = run(XNysTrace(num_matvecs=products, seed=5), operator(BULK))
        assert torch.equal(cut.samples, whole.samples)
        assert cut.stderr == whole.stderr
        assert abs(cut.estimate - float(BULK.trace())) <= 8 * cut.stderr
    assert run(XNysTrace(num_matvecs=12, seed=5), operator(BULK), max_matvecs=1).stderr == float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noise_in_the_products_is_not_negative_curvature(dtype: torch.dtype) -> None:
    """A psd operator with products rounded to `dtype`: an estimate with no bias beyond that rounding, 60 seeds."""
    A = symmetric_matrix(torch.cat([DECAY, torch.zeros(60, dtype=F64)]))
    op = operator(A)
    op.fn = lambda v: (A @ v).to(dtype).to(F64)
    results = [trace(op, method="xnystrace", num_matvecs=24, seed=s) for s in range(60)]
    assert {r.status for r in results} == {"estimated"}
    estimates = torch.tensor([r.estimate for r in results], dtype=F64)
    spread, rounding = float(estimates.std()), torch.finfo(dtype).eps / 60**0.5
    assert abs(float(estimates.mean()) - float(DECAY.sum())) <= 4.5 * spread / 60**0.5 + rounding
    assert spread < 0.05 * float(DECAY.sum())
