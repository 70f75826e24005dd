"""Which end of a spectrum is wanted: one order for every eigensolver."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ENDS", "wanted_first"]

ENDS = ("LA", "SA", "LM", "BE")


def wanted_first(theta: Tensor, which: str) -> Tensor:
    """Indices of ascending `theta` (m,), the most wanted first.

    `which` is one of "LA" (largest), "SA" (smallest), "LM" (largest in magnitude), "BE" (largest, smallest, second
    largest, ...).
    """
    up = torch.arange(len(theta))
    if which == "SA":
        return up
    if which == "LM":
        return theta.abs().argsort(descending=True, stable=True)
    down = up.flip(0)
    if which == "LA":
        return down
    ends = torch.stack([down, up], dim=1).reshape(-1)
    return ends[: len(theta)]
