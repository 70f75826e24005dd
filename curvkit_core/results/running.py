"""How the mean of independent samples settles as they come in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEAVE_ONE_OUT", "running_mean"]

# Methods of a trace whose samples are made of the same products, each with one test vector left out: all of them are
# there at once, and the mean of the first few says nothing of how few products would have done.
LEAVE_ONE_OUT = ("xtrace", "xnystrace")


def running_mean(samples: Tensor) -> tuple[Tensor, Tensor]:
    r"""Give :math:`\bar x_m = \frac1m\sum_{i \le m} x_i` and its standard error :math:`s_m/\sqrt m`, for m = 2, 3, ...

    Parameters
    ----------
    samples : Tensor, shape (p,), float64
        Independent.

    Returns
    -------
    tuple of Tensor
        Means and standard errors, shape (max(p - 1, 0),) each.
    """
    if len(samples) < 2:
        return samples[:0], samples[:0]
    count = torch.arange(1, len(samples) + 1, dtype=torch.float64)
    middle = samples.mean()
    moved = samples - middle  # so that the squares do not cancel
    mean = moved.cumsum(0) / count
    squares = (moved.square().cumsum(0) - count * mean.square()).clamp_min(0.0)
    return (middle + mean)[1:], (squares[1:] / (count[1:] - 1.0) / count[1:]).sqrt()
