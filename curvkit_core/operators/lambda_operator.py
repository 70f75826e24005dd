"""An operator from any function of a vector: the way in for matrices that are no model's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.operators.base import CurvatureOperator

__all__ = ["LambdaOperator"]


class LambdaOperator(CurvatureOperator):
    """A v = fn(v).

    Parameters
    ----------
    fn : callable
        ``fn(v)`` -> A v, both of shape (n,).
    n : int
        Size.
    dtype : torch.dtype
        What `fn` works in. Vectors outside are at least float32: a bfloat16 `fn` gets rounded vectors.
    device : torch.device or str
        Where `fn` works.
    symmetric : bool
        Whether A = A^T.
    adjoint : callable or None
        ``adjoint(v)`` -> A^T v, where A is not symmetric and the transpose is wanted.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        n: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        symmetric: bool = True,
        adjoint: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(n, int) or n < 1:
            msg = f"n={n!r}: expected a positive integer, the operator's size."
            raise ValueError(msg)
        wide = torch.promote_types(dtype, torch.float32)
        super().__init__(VectorSpace([Segment(name="", numel=n)], dtype=wide, device=device), symmetric=symmetric)
        self.fn = fn
        self.fn_dtype = dtype
        self.adjoint = adjoint
        self._flipped: LambdaOperator | None = None

    def transposed(self) -> LambdaOperator | None:
        """Itself where it is symmetric, else the operator of `adjoint`, if there is one."""
        if self.symmetric or self.adjoint is None:
            return self if self.symmetric else None
        if self._flipped is None:
            self._flipped = LambdaOperator(
                self.adjoint, self.n, dtype=self.fn_dtype, device=self.device, symmetric=False, adjoint=self.fn
            )
            self._flipped._flipped = self
        return self._flipped

    def rows_product(self, V: Tensor) -> Tensor:
        """Call `fn` once a row."""
        rows = []
        for v in V:
            product = self.fn(v.to(self.fn_dtype))
            if product.shape != v.shape:
                msg = (
                    f"fn returned shape {tuple(product.shape)} for a vector "
                    f"of shape {tuple(v.shape)}: expected the same."
                )
                raise ValueError(msg)
            rows.append(product.to(v))
        return torch.stack(rows)
