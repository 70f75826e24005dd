"""A linear map between two vector spaces, known by its products with rows of vectors: what every operator is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curvkit_core.backends import VectorSpace

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from curvkit_core.problem.problem import Problem

__all__ = ["LinearMap"]

_DENSE_LIMIT = 20_000  # float64: 3.2 GB


class LinearMap(ABC):
    """A map A from `domain` to `codomain`; rectangular ones are its direct subclasses, square ones CurvatureOperators.

    A subclass implements :meth:`rows_product`, and :meth:`transposed` where the transpose is known.

    Parameters
    ----------
    domain, codomain : VectorSpace
        Where the vectors before and after the product live; of one device.
    problem : Problem or None
        The problem it belongs to, if it has one.
    """

    #: Whether every product is of one and the same matrix; what is made of other operators says so as they do.
    deterministic: bool = True

    def __init__(self, domain: VectorSpace, codomain: VectorSpace, *, problem: Problem | None = None) -> None:
        self.domain = domain
        self.codomain = codomain
        self.problem = problem

    @abstractmethod
    def rows_product(self, V: Tensor) -> Tensor:
        """A times each row of V: (k, n) of the domain in, (k, m) of the codomain out.

        `V` must not be changed; the result is the caller's to overwrite.
        """

    def rows_product_into(self, V: Tensor, out: Tensor) -> None:
        """The same, put into `out` (k, m), which has no memory in common with `V`: by a copy, where nothing is better.

        A subclass whose products can be computed in memory that is given saves that copy, and the memory, by overriding
        this.
        """
        out.copy_(self.rows_product(V))

    def transposed(self) -> LinearMap | None:
        """A^T, or None where it is not known."""
        return None

    @property
    def T(self) -> LinearMap:
        """A^T.

        Raises
        ------
        TypeError
            Where the transpose is not known.
        """
        flipped = self.transposed()
        if flipped is None:
            msg = (
                f"the transpose of {self!r} is not known. Give the operator a method transposed(), or a LambdaOperator "
                "its adjoint= function."
            )
            raise TypeError(msg)
        return flipped

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the codomain's size and the domain's."""
        return (self.codomain.n, self.domain.n)

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors, at least float32 whatever the parameters are; what `A @ v` returns."""
        return self.codomain.dtype

    @property
    def device(self) -> torch.device:
        """Of the vectors."""
        return self.codomain.device

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{type(self).__name__}({m:,} x {n:,}, {str(self.dtype).removeprefix('torch.')}, {self.device})"

    def apply(self, V: Tensor, *, out: Tensor | None = None) -> Tensor:
        """A times several vectors: rows of V, shape (k, n), and so the result, (k, m). Costs k products.

        Where `out` is given, the result is put there: (k, m), of the result's dtype and device, apart from V. At the
        size of a language model memory that was touched before is worth having: new pages cost as much as two passes.
        """
        if V.ndim != 2:
            msg = (
                f"V has shape {tuple(V.shape)}: expected rows of vectors, (k, {self.domain.n}). "
                "For one vector write A @ v."
            )
            raise ValueError(msg)
        if not len(V):
            return self.codomain.zeros(0)
        if out is not None and out.is_inference():  # not to be written where autograd is at work
            return self._checked(out, len(V)).copy_(self.apply(V))
        with torch.inference_mode(mode=False):  # autograd may be needed inside, and the result outside
            rows = self.domain.check(V, "V")
            if out is None:
                return self.rows_product(rows)
            self.rows_product_into(rows, self._checked(out, len(rows)))
            return out

    def _checked(self, out: Tensor, rows: int) -> Tensor:
        expected = (rows, self.codomain.n_local)
        if tuple(out.shape) != expected or out.dtype != self.dtype or out.device != self.device:
            msg = (
                f"out is {tuple(out.shape)}, {out.dtype}, {out.device}: expected {expected}, {self.dtype}, "
                f"{self.device}, as the products are."
            )
            raise ValueError(msg)
        return out

    def __matmul__(self, other: Any) -> Any:
        """A @ v for one vector of shape (n,); A @ B for another map B."""
        if isinstance(other, LinearMap):
            from curvkit_core.operators.algebra import composed

            return composed(self, other)
        if not isinstance(other, Tensor):
            msg = (
                f"A @ {type(other).__name__}: expected a torch.Tensor of shape ({self.domain.n},). "
                "For NumPy use A.to_scipy()."
            )
            raise TypeError(msg)
        if other.ndim != 1:
            msg = (
                f"A @ V with V of shape {tuple(other.shape)}: expected one vector ({self.domain.n},). For several "
                "vectors as rows write A.apply(V); for columns, as SciPy has them, A.to_scipy() @ V."
            )
            raise ValueError(msg)
        return self.apply(other[None])[0]

    def to_dense(self, *, block: int = 64) -> Tensor:
        """The matrix, (m, n), by n products in blocks of `block` rows; by m with the transpose where that is fewer.

        Raises
        ------
        ValueError
            Above 20,000 x 20,000 entries, where the matrix no longer fits a usual machine.
        """
        m, n = self.shape
        if self.domain.n_local != n or self.codomain.n_local != m:
            msg = f"to_dense() of {self!r}: its vectors are spread over ranks. Use products, or the replicated backend."
            raise ValueError(msg)
        if m * n > _DENSE_LIMIT**2:
            if m == n:
                msg = f"to_dense() of an operator with n={n:,}: expected n <= {_DENSE_LIMIT:,}."
            else:
                msg = (
                    f"to_dense() of an operator of shape ({m:,}, {n:,}): expected at most {_DENSE_LIMIT**2:,} entries."
                )
            msg += " Use products, or a submatrix."
            raise ValueError(msg)
        flipped = self.transposed() if m < n else None
        if flipped is not None:
            return torch.cat(list(_images(flipped, block)))
        return torch.cat(list(_images(self, block))).mT.contiguous()

    def to_scipy(self) -> LinearOperator:
        """A ``scipy.sparse.linalg.LinearOperator`` of the same products; vectors are columns and NumPy arrays there."""
        from curvkit_core.operators.scipy_export import to_scipy

        return to_scipy(self)


def _images(op: LinearMap, block: int) -> Any:
    """The unit vectors' images as rows, `block` at a time."""
    for low in range(0, op.domain.n, block):
        rows = min(block, op.domain.n - low)
        unit = op.domain.zeros(rows)
        unit[torch.arange(rows), torch.arange(low, low + rows)] = 1.0
        yield op.apply(unit)
