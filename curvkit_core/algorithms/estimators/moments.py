"""Mean and spread of vectors, element by element, one vector after another (Welford's recurrence)."""

from __future__ import annotations

import math

import torch
from attrs import define
from torch import Tensor

from curvkit_core.backends import VectorSpace

__all__ = ["Moments"]


@define(kw_only=True)
class Moments:
    """The mean of `count` vectors and the root of the summed squared deviations from it: two vectors, (n_local,).

    The root and not the square: squares of float32 numbers near 1e-20 or 1e20 leave float32's range.
    """

    mean: Tensor
    root: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, space: VectorSpace) -> Moments:
        """Give the moments of no vector."""
        return cls(mean=space.zeros(1)[0], root=space.zeros(1)[0])

    def add(self, rows: Tensor) -> None:
        """Take rows (k, n_local) in, one at a time: bitwise the same however they are cut."""
        for row in rows:
            self.count += 1
            off = row - self.mean
            self.mean = self.mean + off / self.count
            self.root = torch.hypot(self.root, off * ((self.count - 1) / self.count) ** 0.5)

    def stderr(self) -> Tensor:
        """One standard error of the mean, elementwise; infinite below two vectors."""
        if self.count < 2:
            return torch.full_like(self.root, float("inf"))
        return self.root / math.sqrt(self.count * (self.count - 1))
