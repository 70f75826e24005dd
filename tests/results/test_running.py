"""The mean of the samples so far, against the textbook's, one count after the other."""

from __future__ import annotations

import statistics

import pytest
import torch
from cases import F64, symmetric_matrix

from curvkit_core import LambdaOperator, trace
from curvkit_core.results.running import running_mean


@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_running_mean_is_that_of_each_beginning(shift: float) -> None:
    """Means and standard errors by the statistics module; far from zero the squares do not cancel."""
    samples = torch.randn(30, dtype=F64, generator=torch.Generator().manual_seed(0)) + shift
    mean, error = running_mean(samples)
    values = samples.tolist()
    tol = 100 * torch.finfo(F64).eps * max(1.0, shift)  # sums of 30 numbers of that size
    for i, count in enumerate(range(2, 31)):
        assert abs(float(mean[i]) - statistics.fmean(values[:count])) <= tol
        assert abs(float(error[i]) - statistics.stdev(values[:count]) / count**0.5) <= tol
    assert abs(float(mean[-1]) + 1e-3 - statistics.fmean(values)) > tol


def test_it_ends_at_the_estimate() -> None:
    """Of a trace: the last mean and its error are the result's."""
    A = symmetric_matrix(torch.linspace(-1, 3, 50, dtype=F64))
    result = trace(LambdaOperator(lambda v: A @ v, 50, dtype=F64), method="hutchinson", num_matvecs=20, seed=0)
    mean, error = running_mean(result.samples)
    assert float(mean[-1]) == pytest.approx(result.estimate, rel=1e-12)
    assert float(error[-1]) == pytest.approx(result.stderr, rel=1e-10)


def test_too_few_samples_have_no_error() -> None:
    for count in (0, 1):
        mean, error = running_mean(torch.ones(count, dtype=F64))
        assert len(mean) == len(error) == 0
