"""Matrices with known spectra for algorithms, and operators over them that count their products."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.operators.lambda_operator import LambdaOperator

__all__ = ["SIZE", "CountedOperator", "indefinite_matrix", "matrix_with", "psd_matrix", "skewed_matrix"]

SIZE = 40
F64 = torch.float64


def matrix_with(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric float64 matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=generator))
    A: Tensor = Q @ (eigenvalues.to(F64)[:, None] * Q.mT)
    return (A + A.mT) / 2


def psd_matrix() -> Tensor:
    """40 eigenvalues from 10 to 0.01, evenly spaced in their logarithms."""
    return matrix_with(torch.logspace(-2, 1, SIZE, dtype=F64))


def indefinite_matrix() -> Tensor:
    """The same with every third eigenvalue negative: the largest in magnitude is the largest, the second is not."""
    signs = torch.tensor([-1.0 if i % 3 == 1 else 1.0 for i in range(SIZE)], dtype=F64).flip(0)
    return matrix_with(torch.logspace(-2, 1, SIZE, dtype=F64) * signs, seed=1)


def skewed_matrix() -> Tensor:
    """Not symmetric: the psd one and a skew part of a tenth of its size."""
    generator = torch.Generator().manual_seed(2)
    S = torch.randn(SIZE, SIZE, dtype=F64, generator=generator)
    return psd_matrix() + 0.1 * (S - S.mT)


class CountedOperator(LambdaOperator):
    """The operator of a dense matrix, counting the vectors it is multiplied with."""

    def __init__(self, matrix: Tensor, *, symmetric: bool = True) -> None:
        self.num_matvecs = 0  # by this name it is no part of what a checkpoint must match
        self.matrix = matrix

        def product(v: Tensor) -> Tensor:
            self.num_matvecs += 1
            return matrix @ v

        adjoint = None if symmetric else (lambda v: matrix.mT @ v)
        super().__init__(product, len(matrix), dtype=matrix.dtype, symmetric=symmetric, adjoint=adjoint)
