"""The operator that every algorithm takes: n, dtype, device, symmetric or not, and products with rows of vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curvkit_core.backends import VectorSpace

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from curvkit_core.problem.problem import Problem

__all__ = ["CurvatureOperator"]

_DENSE_LIMIT = 20_000  # float64: 3.2 GB


class CurvatureOperator(ABC):
    """A linear map on a vector space, known by its products.

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
        self.space = space
        self.symmetric = symmetric
        self.problem = problem

    @abstractmethod
    def rows_product(self, V: Tensor) -> Tensor:
        """A times each row of V: (k, n) in the space's dtype and device, and so out. `V` must not be changed."""

    @property
    def n(self) -> int:
        """Size."""
        return self.space.n

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return (self.n, self.n)

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors, at least float32 whatever the parameters are; what `A @ v` returns."""
        return self.space.dtype

    @property
    def device(self) -> torch.device:
        """Of the vectors."""
        return self.space.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n:,}, {str(self.dtype).removeprefix('torch.')}, {self.device})"

    def apply(self, V: Tensor) -> Tensor:
        """A times several vectors: rows of V, shape (k, n), and so the result. Costs k products."""
        if V.ndim != 2:
            msg = f"V has shape {tuple(V.shape)}: expected rows of vectors, (k, {self.n}). For one vector write A @ v."
            raise ValueError(msg)
        with torch.inference_mode(mode=False):  # autograd may be needed inside, and the result outside
            return self.rows_product(self.space.check(V, "V"))

    def __matmul__(self, other: Any) -> Any:
        """A @ v for one vector of shape (n,); A @ B for an operator B."""
        if isinstance(other, CurvatureOperator):
            from curvkit_core.operators.algebra import ProductOperator

            return ProductOperator(self, other)
        if not isinstance(other, Tensor):
            msg = (
                f"A @ {type(other).__name__}: expected a torch.Tensor of shape ({self.n},). For NumPy use A.to_scipy()."
            )
            raise TypeError(msg)
        if other.ndim != 1:
            msg = (
                f"A @ V with V of shape {tuple(other.shape)}: expected one vector ({self.n},). For several vectors as "
                "rows "
                "write A.apply(V); for columns, as SciPy has them, A.to_scipy() @ V."
            )
            raise ValueError(msg)
        return self.apply(other[None])[0]

    def shift(self, sigma: float) -> CurvatureOperator:
        """A + sigma I."""
        from curvkit_core.operators.algebra import ShiftedOperator

        return ShiftedOperator(self, float(sigma))

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

    def to_dense(self, *, block: int = 64) -> Tensor:
        """The matrix, (n, n), by n products in blocks of `block` rows.

        Raises
        ------
        ValueError
            Above n = 20,000, where the matrix no longer fits a usual machine.
        """
        if self.n > _DENSE_LIMIT:
            msg = (
                f"to_dense() of an operator with n={self.n:,}: expected n <= "
                f"{_DENSE_LIMIT:,}. Use products, or a submatrix."
            )
            raise ValueError(msg)
        columns = []
        for low in range(0, self.n, block):
            rows = min(block, self.n - low)
            unit = self.space.zeros(rows)
            unit[torch.arange(rows), torch.arange(low, low + rows)] = 1.0
            columns.append(self.apply(unit))
        return torch.cat(columns).mT.contiguous()

    def to_scipy(self) -> LinearOperator:
        """A ``scipy.sparse.linalg.LinearOperator`` of the same products; vectors are columns and NumPy arrays there."""
        from curvkit_core.operators.scipy_export import to_scipy

        return to_scipy(self)
