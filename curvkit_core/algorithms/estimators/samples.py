"""Independent estimates of one number: their mean and its standard error."""

from __future__ import annotations

from torch import Tensor

__all__ = ["PROBE_KINDS", "mean_and_stderr"]

PROBE_KINDS = ("rademacher", "gaussian", "sphere")


def mean_and_stderr(samples: Tensor) -> tuple[float, float]:
    """Mean and standard error of m samples; (nan, inf) for none, an infinite error for one."""
    if not len(samples):
        return float("nan"), float("inf")
    mean = float(samples.mean())
    if len(samples) == 1:
        return mean, float("inf")
    return mean, float(samples.std(unbiased=True)) / len(samples) ** 0.5
