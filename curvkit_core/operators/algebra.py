"""Operators made of operators: shift, scale, sum, product."""

from __future__ import annotations

from torch import Tensor

from curvkit_core.backends import VectorSpace
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.operators.linear_map import LinearMap

__all__ = ["ComposedMap", "ProductOperator", "ScaledOperator", "ShiftedOperator", "SumOperator", "composed"]


class ShiftedOperator(CurvatureOperator):
    """A + sigma I. One product of A."""

    def __init__(self, base: CurvatureOperator, sigma: float) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base, self.sigma = base, sigma
        self.deterministic = base.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """A v + sigma v."""
        return self.base.rows_product(V).add(V, alpha=self.sigma)

    def transposed(self) -> CurvatureOperator | None:
        """A^T + sigma I."""
        flipped = self.base.transposed()
        return self if self.symmetric else None if flipped is None else ShiftedOperator(flipped, self.sigma)


class ScaledOperator(CurvatureOperator):
    """c A. One product of A."""

    def __init__(self, base: CurvatureOperator, factor: float) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base, self.factor = base, factor
        self.deterministic = base.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """c (A v)."""
        return self.base.rows_product(V) * self.factor

    def transposed(self) -> CurvatureOperator | None:
        """c A^T."""
        flipped = self.base.transposed()
        return self if self.symmetric else None if flipped is None else ScaledOperator(flipped, self.factor)


class SumOperator(CurvatureOperator):
    """A + B. One product of each."""

    def __init__(self, left: CurvatureOperator, right: CurvatureOperator) -> None:
        _check_fit(left, left.space, "+", right, right.space)
        super().__init__(
            left.space, symmetric=left.symmetric and right.symmetric, problem=left.problem or right.problem
        )
        self.left, self.right = left, right
        self.deterministic = left.deterministic and right.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """A v + B v."""
        return self.left.rows_product(V) + self.right.rows_product(V)

    def transposed(self) -> CurvatureOperator | None:
        """A^T + B^T."""
        left, right = self.left.transposed(), self.right.transposed()
        return self if self.symmetric else None if left is None or right is None else SumOperator(left, right)


class ProductOperator(CurvatureOperator):
    """A B, square. One product of each; symmetric where one factor is the other's transpose, as in J^T J and A A."""

    def __init__(self, left: LinearMap, right: LinearMap) -> None:
        _check_fit(left, left.domain, "@", right, right.codomain)
        _check_fit(left, left.codomain, "@", right, right.domain)
        transposes = left.transposed() is right or right.transposed() is left
        symmetric = transposes and left.deterministic  # two products of a stochastic A are of two matrices
        super().__init__(right.domain, symmetric=symmetric, problem=left.problem or right.problem)
        self.left, self.right = left, right
        self.deterministic = left.deterministic and right.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """A (B v)."""
        return self.left.rows_product(self.right.rows_product(V))

    def transposed(self) -> CurvatureOperator | None:
        """B^T A^T."""
        left, right = self.left.transposed(), self.right.transposed()
        return self if self.symmetric else None if left is None or right is None else ProductOperator(right, left)


class ComposedMap(LinearMap):
    """A B, rectangular. One product of each."""

    def __init__(self, left: LinearMap, right: LinearMap) -> None:
        _check_fit(left, left.domain, "@", right, right.codomain)
        super().__init__(right.domain, left.codomain, problem=left.problem or right.problem)
        self.left, self.right = left, right
        self.deterministic = left.deterministic and right.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """A (B v)."""
        return self.left.rows_product(self.right.rows_product(V))

    def transposed(self) -> LinearMap | None:
        """B^T A^T."""
        left, right = self.left.transposed(), self.right.transposed()
        return None if left is None or right is None else ComposedMap(right, left)


def composed(left: LinearMap, right: LinearMap) -> LinearMap:
    """A B: a CurvatureOperator where it is square."""
    return (ProductOperator if _fits(left.codomain, right.domain) else ComposedMap)(left, right)


def _fits(one: VectorSpace, other: VectorSpace) -> bool:
    return one.n == other.n and one.dtype == other.dtype and one.device == other.device


def _check_fit(left: LinearMap, one: VectorSpace, sign: str, right: LinearMap, other: VectorSpace) -> None:
    if not _fits(one, other):
        msg = f"{left!r} {sign} {right!r}: expected operators of one size, dtype and device."
        raise ValueError(msg)
