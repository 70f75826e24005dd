"""Draw targets from outputs by inverting distribution functions: the same numbers in, the same targets out."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_classes", "draw_labels", "draw_normal"]

_ELEMENTS = 1 << 24  # of a float64 block of cumulative probabilities: 128 MiB


def draw_classes(logits: Tensor, uniforms: Tensor) -> Tensor:
    """A class a row from its softmax: the first whose cumulative probability passes the row's number.

    Parameters
    ----------
    logits : Tensor, shape (R, C)
        Classes of probability 0 (logit -inf) are never drawn.
    uniforms : Tensor, shape (R,), float64
        In (0, 1).

    Returns
    -------
    Tensor, shape (R,), int64
        Cumulated in float64, in blocks of rows: in float32 the sum over 150,000 classes is off by about 1e-4.
    """
    rows, classes = logits.shape
    drawn = torch.empty(rows, dtype=torch.int64, device=logits.device)
    step = max(1, _ELEMENTS // max(1, classes))
    for low in range(0, rows, step):
        cumulative = torch.softmax(logits[low : low + step].double(), dim=1).cumsum_(1)
        thresholds = _below_one(uniforms[low : low + step, None].to(cumulative.device)) * cumulative[:, -1:]
        drawn[low : low + step] = torch.searchsorted(cumulative, thresholds, right=True)[:, 0]
    return drawn


def draw_labels(logits: Tensor, uniforms: Tensor) -> Tensor:
    """1 where the element's number is below its sigmoid, else 0: logits' shape and dtype, `uniforms` (N, D)."""
    return (uniforms.to(logits.device).reshape(logits.shape) < torch.sigmoid(logits.double())).to(logits.dtype)


def draw_normal(mean: Tensor, variance: float, uniforms: Tensor) -> Tensor:
    """Gaussians around `mean` by the inverse normal distribution function: mean's shape, float32 at least."""
    normal = torch.special.ndtri(_below_one(uniforms.to(mean.device))).reshape(mean.shape)
    drawn: Tensor = mean.double() + variance**0.5 * normal
    return drawn.to(torch.promote_types(mean.dtype, torch.float32))


def _below_one(uniforms: Tensor) -> Tensor:
    """One number in 2^53 is rounded to 1.0, where no class is left and the normal is infinite."""
    return uniforms.clamp(max=1.0 - 2.0**-53)
