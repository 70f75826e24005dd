"""Operators made of operators: shift, scale, sum, product."""

from __future__ import annotations

from torch import Tensor

from curvkit_core.operators.base import CurvatureOperator

__all__ = ["ProductOperator", "ScaledOperator", "ShiftedOperator", "SumOperator"]


def _check_fit(left: CurvatureOperator, right: CurvatureOperator, sign: str) -> None:
    if left.n != right.n or left.dtype != right.dtype or left.device != right.device:
        msg = f"{left!r} {sign} {right!r}: expected operators of one size, dtype and device."
        raise ValueError(msg)


class ShiftedOperator(CurvatureOperator):
    """A + sigma I. One product of A."""

    def __init__(self, base: CurvatureOperator, sigma: float) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base, self.sigma = base, sigma

    def rows_product(self, V: Tensor) -> Tensor:
        """A v + sigma v."""
        return self.base.rows_product(V).add(V, alpha=self.sigma)


class ScaledOperator(CurvatureOperator):
    """c A. One product of A."""

    def __init__(self, base: CurvatureOperator, factor: float) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base, self.factor = base, factor

    def rows_product(self, V: Tensor) -> Tensor:
        """c (A v)."""
        return self.base.rows_product(V) * self.factor


class SumOperator(CurvatureOperator):
    """A + B. One product of each."""

    def __init__(self, left: CurvatureOperator, right: CurvatureOperator) -> None:
        _check_fit(left, right, "+")
        super().__init__(
            left.space, symmetric=left.symmetric and right.symmetric, problem=left.problem or right.problem
        )
        self.left, self.right = left, right

    def rows_product(self, V: Tensor) -> Tensor:
        """A v + B v."""
        return self.left.rows_product(V) + self.right.rows_product(V)


class ProductOperator(CurvatureOperator):
    """A B. One product of each; not symmetric, save for an operator's product with itself."""

    def __init__(self, left: CurvatureOperator, right: CurvatureOperator) -> None:
        _check_fit(left, right, "@")
        symmetric = left is right and left.symmetric
        super().__init__(left.space, symmetric=symmetric, problem=left.problem or right.problem)
        self.left, self.right = left, right

    def rows_product(self, V: Tensor) -> Tensor:
        """A (B v)."""
        return self.left.rows_product(self.right.rows_product(V))
