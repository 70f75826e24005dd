"""The SciPy edge: NumPy arrays and columns live here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from curvkit_core.operators.base import CurvatureOperator

__all__ = ["to_scipy"]


def to_scipy(op: CurvatureOperator) -> LinearOperator:
    """Export `op`: products with columns, on `op`'s device. A symmetric operator is its own adjoint."""
    try:
        import numpy
        from scipy.sparse.linalg import LinearOperator
    except ImportError as error:
        msg = "to_scipy() needs SciPy, which is not installed. Mend: pip install scipy."
        raise ImportError(msg) from error

    def columns_product(X: Any) -> Any:
        columns = torch.from_numpy(numpy.ascontiguousarray(X)).reshape(op.n, -1)
        product = op.apply(columns.mT.contiguous()).mT
        return product.cpu().numpy().reshape(X.shape)

    numpy_dtype = torch.empty(0, dtype=op.dtype).numpy().dtype
    adjoint = {"rmatvec": columns_product, "rmatmat": columns_product} if op.symmetric else {}
    return LinearOperator(op.shape, matvec=columns_product, matmat=columns_product, dtype=numpy_dtype, **adjoint)
