"""The operator that every algorithm takes: square, symmetric or not, with the algebra of matrices."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor

from curvkit_core.backends import VectorSpace
from curvkit_core.operators.linear_map import LinearMap

if TYPE_CHECKING:
    from curvkit_core.problem.problem import Problem

__all__ = ["CurvatureOperator"]


class CurvatureOperator(LinearMap):
    """A linear map of a vector space to itself, known by its products.

    A subclass implements :meth:`rows_product`; to write an operator over a problem's data, subclass
    :class:`curvkit_core.operators.DataOperator` instead.

    Parameters
    ----------
    space : VectorSpace
        Where its vectors live.
    symmetric : bool
        Whether A = A^T; algorithms that need it refuse an operator that says no.
    problem : Problem or None
        The problem it belongs to, if it has one.
    """

    def __init__(self, space: VectorSpace, *, symmetric: bool = True, problem: Problem | None = None) -> None:
        super().__init__(space, space, problem=problem)
        self.symmetric = symmetric

    @property
    def space(self) -> VectorSpace:
        """Where the vectors live, before the product and after it."""
        return self.domain

    @property
    def n(self) -> int:
        """Size."""
        return self.space.n

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n:,}, {str(self.dtype).removeprefix('torch.')}, {self.device})"

    def transposed(self) -> CurvatureOperator | None:
        """A^T: itself where it is symmetric."""
        return self if self.symmetric else None

    def shift(self, sigma: float) -> CurvatureOperator:
        """A + sigma I."""
        from curvkit_core.operators.algebra import ShiftedOperator

        return ShiftedOperator(self, float(sigma))

    def low_rank_update(self, U: Tensor, c: Tensor | None = None) -> CurvatureOperator:
        """A + U^T diag(c) U, the rows of U (r, n) being vectors; c (r,) is all ones where it is left out."""
        from curvkit_core.operators.low_rank import LowRankUpdate

        return LowRankUpdate(self, U, c)

    def __add__(self, other: Any) -> CurvatureOperator:
        from curvkit_core.operators.algebra import SumOperator

        if isinstance(other, Real):
            msg = f"A + {other!r} is ambiguous: expected an operator. For A + {other!r} I write A.shift({other!r})."
            raise TypeError(msg)
        return SumOperator(self, other) if isinstance(other, CurvatureOperator) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Any) -> CurvatureOperator:
        if isinstance(other, Real):
            msg = (
                f"A - {other!r} is ambiguous: expected an operator. For A - "
                f"{other!r} I write A.shift({-float(other)!r})."
            )
            raise TypeError(msg)
        return self + (-1.0) * other if isinstance(other, CurvatureOperator) else NotImplemented

    def __mul__(self, factor: Any) -> CurvatureOperator:
        from curvkit_core.operators.algebra import ScaledOperator

        return ScaledOperator(self, float(factor)) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> CurvatureOperator:
        return self * -1.0
