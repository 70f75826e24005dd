"""How far two results lie apart, and how far rounding may take them."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.backends import VectorSpace
from curvkit_core.operators.base import CurvatureOperator

__all__ = ["dense", "directions", "gap", "rounding"]


def gap(found: Tensor, expected: Tensor) -> float:
    r""":math:`\|f - e\|_F / \|e\|_F`; absolute where e is zero; inf for another shape or where f is not finite."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    found, expected = found.double(), expected.double()
    norm = float(expected.norm())
    return float((found - expected).norm()) / (norm or 1.0)


def rounding(dtype: torch.dtype) -> float:
    """Relative error that sums of a few hundred terms through ten layers may have: 2e-11 in float64, 1e-3 in float32.

    1e5 eps in float64: the worst of some thousand comparisons of core's operators came to 4e-14. In float32 1e4 eps.
    """
    eps = torch.finfo(dtype).eps
    return (1e5 if dtype == torch.float64 else 1e4) * eps


def dense(op: CurvatureOperator) -> Tensor:
    """The matrix in float64, column j being the product with unit vector j."""
    return op.apply(torch.eye(op.n, dtype=op.dtype, device=op.device)).mT.double()


def directions(space: VectorSpace, rows: int, seed: int = 0) -> Tensor:
    """Gaussian vectors, (rows, n), that depend on the seed alone."""
    return space.random("gaussian", seed, 0, rows)
