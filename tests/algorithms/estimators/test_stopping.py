"""Stopping at a tolerance: by the error bar, unbiased, at moments that do not depend on the rows multiplied at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import operator

from curvkit_core import LambdaOperator, diagonal, frobenius_norm, trace
from curvkit_core.algorithms.estimators.stopping import LEAST_SAMPLES, next_look, reached

DECAY = symmetric_matrix(torch.cat([torch.arange(1, 61, dtype=F64) ** -1.0, torch.full((140,), 0.005, dtype=F64)]))
U = torch.full((4,), 0.5, dtype=F64)
RANK_ONE = LambdaOperator(lambda v: U * (U @ v), 4, dtype=F64)  # trace 1; z'Az is 0, 1 or 4
ALL: list[Callable[..., Any]] = [
    lambda op, **options: trace(op, method="hutchinson", **options),
    lambda op, **options: trace(op, method="hutch++", **options),
    lambda op, **options: trace(op, method="xtrace", **options),
    lambda op, **options: trace(op, method="xnystrace", **options),
    lambda op, **options: diagonal(op, method="hutchinson", **options),
    lambda op, **options: diagonal(op, method="xdiag", **options),
    lambda op, **options: diagonal(op, method="xnysdiag", **options),
    frobenius_norm,
]


def test_looks_are_few_and_end_at_the_limit() -> None:
    """From 20 samples on, each a quarter later; with no tolerance only at the end."""
    looks, count = [], 0
    while count < 99:
        count = next_look(count, 99, 0.1)
        looks.append(count)
    assert looks == [20, 25, 32, 40, 50, 63, 79, 99]
    assert next_look(0, 99, None) == 99
    assert next_look(0, 7, 0.1) == 7


def test_no_error_bar_of_few_samples_is_believed() -> None:
    assert reached(1.0, 0.0, LEAST_SAMPLES - 1, 0.1) is False
    assert reached(1.0, 0.0, LEAST_SAMPLES, 0.1) is True
    assert reached(0.0, 0.0, 0, 0.1, exact=True) is True
    assert reached(float("nan"), float("nan"), 50, 0.1) is False
    assert reached(1.0, 0.0, 50, None) is None


@pytest.mark.parametrize("tol", [0.2, 0.3])
def test_stopping_has_no_bias(tol: float) -> None:
    """X36, 200 seeds on the skewest of samples: the mean within 4.5 of its standard errors, bars cover 88 % or more."""
    results = [trace(RANK_ONE, method="hutchinson", num_matvecs=200, tol=tol, seed=s) for s in range(200)]
    found = torch.tensor([r.estimate for r in results], dtype=F64)
    errors = torch.tensor([r.stderr for r in results], dtype=F64)
    assert all(r.converged and r.stderr <= tol * r.estimate for r in results)
    assert float(found.std()) / 200**0.5 < 0.03
    assert abs(float(found.mean()) - 1.0) <= 4.5 * float(found.std()) / 200**0.5
    assert float(((found - 1.0).abs() <= 1.96 * errors).double().mean()) >= 0.88
    assert len({r.num_matvecs for r in results}) > 1  # it did depend on the samples


def test_two_samples_would_stop_too_soon() -> None:
    """Negative control: a bar believed from the second sample on covers less than 88 %."""
    covered = 0
    for seed in range(200):
        samples = trace(RANK_ONE, method="hutchinson", num_matvecs=60, seed=seed).samples
        for count in range(2, 61):
            mean, bar = float(samples[:count].mean()), float(samples[:count].std()) / count**0.5
            if bar <= 0.3 * mean:
                break
        covered += abs(mean - 1.0) <= 1.96 * bar
    assert covered < 0.88 * 200


@pytest.mark.parametrize("estimate", ALL)
def test_every_estimator_stops_by_its_error_bar(estimate: Callable[..., Any]) -> None:
    """Loose: before the budget, and says so; too tight: at the budget, and says so; none asked for: None."""

    def relative(result: Any) -> float:
        if hasattr(result, "total_stderr"):
            return float(result.total_stderr / result.estimate.norm())
        return float(result.stderr / abs(result.estimate))

    calls: list[int] = []
    loose = estimate(operator(DECAY, calls), num_matvecs=99, tol=0.9, seed=0)
    assert loose.converged and loose.info.converged
    assert relative(loose) <= 0.9
    assert len(calls) == loose.num_matvecs < 99
    calls.clear()
    tight = estimate(operator(DECAY, calls), num_matvecs=45, tol=1e-9, seed=0)
    assert tight.converged is False
    assert relative(tight) > 1e-9
    assert 44 <= len(calls) == tight.num_matvecs <= 45
    assert estimate(operator(DECAY), num_matvecs=45, seed=0).converged is None


@pytest.mark.parametrize("estimate", ALL)
def test_rows_at_once_change_nothing(estimate: Callable[..., Any]) -> None:
    """Bitwise: the products are made row by row here, and looks come at fixed numbers of them."""
    results = [estimate(operator(DECAY), num_matvecs=99, tol=0.05, seed=3, max_rows=rows) for rows in (1, 5, 16)]
    for other in results[1:]:
        assert other.num_matvecs == results[0].num_matvecs
        assert torch.equal(torch.as_tensor(other.estimate), torch.as_tensor(results[0].estimate))
        assert torch.equal(torch.as_tensor(other.stderr), torch.as_tensor(results[0].stderr))


@pytest.mark.parametrize("estimate", ALL)
def test_a_tolerance_out_of_range_is_named(estimate: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="'tol' must be > 0.0: 0.0"):
        estimate(operator(DECAY), tol=0.0)
    with pytest.raises(ValueError, match="'num_matvecs' must be >= 2: 1"):
        estimate(operator(DECAY), num_matvecs=1)
    with pytest.raises(ValueError, match="'probes' must be in"):
        estimate(operator(DECAY), probes="cauchy")
