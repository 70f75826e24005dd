"""The SciPy edge: NumPy arrays and columns live here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from curvkit_core.operators.linear_map import LinearMap

__all__ = ["to_scipy"]


def to_scipy(op: LinearMap) -> LinearOperator:
    """Export `op`: products with columns, on `op`'s device; with the adjoint's where the transpose is known."""
    try:
        import numpy
        from scipy.sparse.linalg import LinearOperator
    except ImportError as error:
        msg = "to_scipy() needs SciPy, which is not installed. Mend: pip install scipy."
        raise ImportError(msg) from error

    def columns_product(map_: LinearMap) -> Callable[[Any], Any]:
        def product(X: Any) -> Any:
            columns = torch.from_numpy(numpy.ascontiguousarray(X)).reshape(map_.shape[1], -1)
            image = map_.apply(columns.mT.contiguous()).mT
            return image.cpu().numpy().reshape(map_.shape[0], *X.shape[1:])

        return product

    numpy_dtype = torch.empty(0, dtype=op.dtype).numpy().dtype
    forward = columns_product(op)
    flipped = op.transposed()
    adjoint = {}
    if flipped is not None:
        backward = columns_product(flipped)
        adjoint = {"rmatvec": backward, "rmatmat": backward}
    return LinearOperator(op.shape, matvec=forward, matmat=forward, dtype=numpy_dtype, **adjoint)
