"""Sums over the spectrum: log-determinant, effective dimension and others against dense, with bracket and coverage."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, effective_dimension, load_result, logdet, save_result, spectral_sum
from curvkit_core.algorithms import LogDet, SpectralSum, run
from curvkit_core.results.types import SpectralSumResult

SPECTRUM = torch.cat([torch.zeros(10, dtype=F64), 10.0 ** torch.linspace(-4, 1, 50, dtype=F64)])
DAMPING = 1e-2
TRUTHS = {
    "log": lambda t, d: (t + d).log().sum(),
    "inverse": lambda t, d: (1 / (t + d)).sum(),
    "sqrt": lambda t, d: (t + d).sqrt().sum(),
    "ratio": lambda t, d: (t / (t + d)).sum(),
}


def operator(A: Tensor, calls: list[int] | None = None) -> LambdaOperator:
    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype)


@pytest.fixture(scope="module")
def rules() -> SpectralSumResult:
    """800 probes, whose rules serve every function."""
    return spectral_sum(operator(symmetric_matrix(SPECTRUM)), damping=0.1, num_probes=800, steps=12, seed=0)


@pytest.mark.parametrize("name", list(TRUTHS))
def test_sums_match_the_dense_ones_with_honest_bars(name: str, rules: SpectralSumResult) -> None:
    """200 groups of 4 probes: unbiased, 95 % bars (3.18 stderr) cover 88 to 99.5 %, halved ones less; not vacuous."""
    truth = float(TRUTHS[name](SPECTRUM, 0.1))
    made = rules.evaluate(name)
    samples = made.samples.view(200, 4)
    means, bars = samples.mean(1), samples.std(1) / 2.0
    spread = float(means.std())
    assert made.bias_bound is not None
    assert abs(float(means.mean()) - truth) <= 4.5 * spread / 200**0.5 + made.bias_bound
    assert made.bias_bound < 0.1 * spread
    assert spread <= 0.2 * abs(truth)
    off = (means - truth).abs()
    assert 0.88 <= float((off <= 3.18 * bars).double().mean()) <= 0.995
    assert float((off <= 0.5 * 3.18 * bars).double().mean()) < 0.88
    op = operator(symmetric_matrix(SPECTRUM))
    one = spectral_sum(op, function=name, damping=0.1, num_probes=4, steps=12, seed=0)
    assert one.estimate == pytest.approx(float(means[0]), rel=1e-9)
    assert one.stderr == pytest.approx(float(bars[0]), rel=1e-6)


@pytest.mark.parametrize("name", list(TRUTHS))
@pytest.mark.parametrize("steps", [1, 3, 6, 12])
def test_gauss_and_radau_rules_have_the_truth_between_them(name: str, steps: int) -> None:
    """For each probe's own measure: Gauss errs to its side (below for 1/(t + d)), by no more than the bias bound."""
    A = symmetric_matrix(SPECTRUM)
    op = operator(A)
    result = spectral_sum(op, function=name, damping=DAMPING, num_probes=5, steps=steps, seed=0)
    theta, U = torch.linalg.eigh(A)
    z = op.space.random("rademacher", 0, 0, 5)
    f = {
        "log": (theta + DAMPING).log(),
        "inverse": 1 / (theta + DAMPING),
        "sqrt": (theta.clamp_min(0) + DAMPING).sqrt(),
        "ratio": theta / (theta + DAMPING),
    }[name]
    truth = (z @ U).square() @ f  # |z|^2 = n
    gap = (result.samples - truth) * (-1 if name == "inverse" else 1)
    rounding = 1e-9 * float(truth.abs().max())
    assert (gap >= -rounding).all()
    assert result.bias_bound is not None
    assert float(gap.mean()) <= result.bias_bound + rounding
    if steps <= 6:
        assert float(gap.min()) > 10 * rounding  # there is something to bound
    assert result.bias_bound <= 1e4 * max(float(gap.mean()), rounding)  # and the bound follows it


spectra = st.lists(st.floats(0, 10) | st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 1e-6]), min_size=1, max_size=10)


@settings(max_examples=60, deadline=None)
@given(spectrum=spectra, factor=st.sampled_from([1e-20, 1.0, 1e20]), name=st.sampled_from(list(TRUTHS)))
def test_sums_are_right_on_any_semidefinite_spectrum(spectrum: list[float], factor: float, name: str) -> None:
    """With steps = n each sample is z^T f(A) z, up to n = 10, scales of 1e-20 and 1e20; the bars hold the dense sum."""
    values = torch.tensor(spectrum, dtype=F64) * factor
    damping = 0.1 * factor
    op = operator(symmetric_matrix(values))
    result = spectral_sum(op, function=name, damping=damping, num_probes=3, steps=99, seed=0)
    assert result.status == "done"
    A = symmetric_matrix(values)
    theta, U = torch.linalg.eigh(A)
    z = op.space.random("rademacher", 0, 0, 3)
    parts = {
        "log": lambda t: (t + damping).log(),
        "inverse": lambda t: 1 / (t + damping),
        "sqrt": lambda t: (t + damping).sqrt(),
        "ratio": lambda t: t / (t + damping),
    }
    truth = (z @ U).square() @ parts[name](theta)
    # nodes right to 100 eps |A|, and |f'| at most 1/d^(1 or 2): a hundredth of the damping is left for 1e-11
    scale = max(1.0, float(truth.abs().max()))
    tol = 1e-9 * (scale if name in ("log", "ratio") else float(truth.abs().max()))
    assert (result.samples - truth).abs().max() <= tol


def test_logdet_and_effective_dimension_are_those_sums() -> None:
    op = operator(symmetric_matrix(SPECTRUM))
    options: dict[str, Any] = {"damping": DAMPING, "num_probes": 8, "steps": 20, "seed": 3}
    for function, name in ((logdet, "log"), (effective_dimension, "ratio")):
        result, same = function(op, **options), spectral_sum(op, function=name, **options)
        assert (result.estimate, result.stderr, result.bias_bound) == (same.estimate, same.stderr, same.bias_bound)
        truth = float(TRUTHS[name](SPECTRUM, DAMPING))
        assert abs(result.estimate - truth) <= 4.5 * result.stderr
        assert result.stderr <= 0.1 * abs(truth)
        assert result.converged
        assert result.info.converged


def test_scale_carries_through() -> None:
    """A2: log det(c (A + d)) = log det(A + d) + n log c; the effective dimension is the same."""
    A = symmetric_matrix(SPECTRUM)
    options: dict[str, Any] = {"num_probes": 4, "steps": 20, "seed": 0}
    one = logdet(operator(A), damping=DAMPING, **options)
    dimension = effective_dimension(operator(A), damping=DAMPING, **options)
    for c in (1e-20, 1e20):
        op = LambdaOperator(lambda v, c=c: (A @ v) * c, 60, dtype=F64)
        moved = logdet(op, damping=DAMPING * c, **options)
        assert moved.estimate == pytest.approx(one.estimate + 60 * math.log(c), rel=1e-11)
        assert moved.stderr == pytest.approx(one.stderr, rel=1e-6)
        same = effective_dimension(op, damping=DAMPING * c, **options)
        assert same.estimate == pytest.approx(dimension.estimate, rel=1e-9)
        assert same.bias_bound == pytest.approx(dimension.bias_bound, rel=1e-4)


def test_what_is_not_positive_is_named_with_the_mend() -> None:
    """An indefinite operator: NaN, the Ritz value and a damping; with that, no product more, it is right."""
    spectrum = torch.linspace(-0.5, 3, 40, dtype=F64)
    calls: list[int] = []
    result = logdet(operator(symmetric_matrix(spectrum), calls), num_probes=30, steps=40, seed=0)
    assert math.isnan(result.estimate)
    assert result.stderr == math.inf
    assert not result.converged
    assert not result.info.converged
    assert result.status == (
        "not positive: the smallest Ritz value -0.5 plus damping=0 is not above 7e-15, the rounding, so "
        "log(t + damping) is not defined. Mend: evaluate(damping=1) or more, with no further product"
    )
    made = len(calls)
    mended = result.evaluate(damping=1.0)
    assert len(calls) == made
    assert mended.status == "done"
    assert abs(mended.estimate - float((spectrum + 1).log().sum())) <= 4.5 * mended.stderr
    assert mended.bias_bound == 0.0  # steps = n: the rules are whole measures
    short = effective_dimension(operator(symmetric_matrix(spectrum)), damping=0.6, steps=10, seed=0)
    assert short.status == "done"
    assert short.bias_bound is None  # indefinite: no bracket
    for factor, n in ((0.0, 5), (0.0, 1), (-1.0, 3)):
        op = LambdaOperator(lambda v, c=factor: c * v, n, dtype=F64)
        assert logdet(op, seed=0).status.startswith("not positive")
        assert logdet(op, damping=3.0, seed=0).estimate == pytest.approx(n * math.log(3.0 + factor), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_below_the_damping_does_no_harm(dtype: torch.dtype) -> None:
    """A third of zeros, which rounding moves by eps |A| to either side; without damping that is said, not summed."""
    spectrum = torch.cat([torch.zeros(20, dtype=F64), torch.linspace(1, 3, 40, dtype=F64)])
    A = symmetric_matrix(spectrum).to(dtype)
    exact = torch.linalg.eigvalsh(A.double())
    result = logdet(operator(A), damping=0.5, num_probes=20, steps=30, seed=0)
    assert (
        abs(result.estimate - float((exact + 0.5).log().sum()))
        <= 4.5 * result.stderr + 60 * 10 * torch.finfo(dtype).eps
    )
    if dtype == torch.float32:
        assert logdet(operator(A), num_probes=20, steps=60, seed=0).status.startswith("not positive")


def test_functions_of_your_own_go_to_the_result(tmp_path: Any) -> None:
    """Re-evaluated from nodes and weights, also after storing: exact moments, no product, no bound claimed."""
    A = symmetric_matrix(SPECTRUM)
    result = spectral_sum(operator(A), damping=DAMPING, num_probes=10, steps=8, seed=0)
    traces = result.evaluate(lambda t: t, damping=0.0)
    z = operator(A).space.random("rademacher", 0, 0, 10)
    assert torch.allclose(traces.samples, ((z @ A) * z).sum(1), rtol=1e-12)
    assert (traces.function, traces.bias_bound, traces.status) == ("custom", None, "done")
    save_result(result, tmp_path / "r")
    loaded = load_result(tmp_path / "r")
    assert isinstance(loaded, SpectralSumResult)
    assert loaded.evaluate("sqrt").estimate == result.evaluate("sqrt").estimate
    whole = spectral_sum(operator(A), damping=DAMPING, steps=60, num_probes=2, seed=0).evaluate(torch.sin)
    assert whole.bias_bound == 0.0


def test_products_are_counted_and_cut_runs_are_right_so_far() -> None:
    """Stopped anywhere, the bracket holds for the probes there are."""
    A = symmetric_matrix(SPECTRUM)
    op = operator(A)
    theta, U = torch.linalg.eigh(A)
    truth = (op.space.random("rademacher", 0, 0, 4) @ U).square() @ (theta + DAMPING).log()
    algorithm = LogDet(damping=DAMPING, num_probes=4, steps=6, lockstep=3, seed=0)
    for budget in range(1, 25):
        calls: list[int] = []
        result = run(algorithm, operator(A, calls), max_matvecs=budget)
        assert len(calls) == result.num_matvecs == budget
        gap = result.samples - truth[: len(result.samples)]
        assert (gap >= -1e-9).all()
        assert float(gap.mean()) <= result.bias_bound + 1e-9
    empty = algorithm.result(op.space, algorithm.init(op.space))
    assert (empty.status, empty.converged) == ("no probe", False)
    assert math.isnan(empty.estimate)
    one = run(algorithm, op, max_rows=1)
    assert one.estimate == pytest.approx(run(algorithm, op, max_rows=16).estimate, rel=1e-12)
    assert run(LogDet(damping=1.0, num_probes=1, seed=0), op).stderr == math.inf


def test_options_out_of_range_are_named() -> None:
    op = operator(torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="'damping' must be > 0"):
        effective_dimension(op, damping=0.0)
    with pytest.raises(
        ValueError, match=r"function='exp' is unknown: expected one of log, inverse, sqrt, ratio. A function of"
    ):
        spectral_sum(op, function="exp")
    with pytest.raises(ValueError, match=r"spectral_sum\(op\).evaluate\(f\), at no further product"):
        SpectralSum(function=torch.exp)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'steps' must be >= 1"):
        logdet(op, steps=0)
    result = logdet(op, seed=0)
    with pytest.raises(ValueError, match="function='exp' is unknown: expected one of log, inverse, sqrt, ratio, or a"):
        result.evaluate("exp")
    with pytest.raises(ValueError, match="damping=nan: expected a finite number"):
        result.evaluate(damping=math.nan)
    with pytest.raises(ValueError, match="LogDet needs a symmetric operator"):
        logdet(LambdaOperator(lambda v: v, 3, symmetric=False))
