"""Spectra that estimators must bear, as Hypothesis draws them, and operators with their products counted."""

from __future__ import annotations

import torch
from cases import F64, symmetric_matrix
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator


def operator(A: Tensor, calls: list[int] | None = None, *, symmetric: bool = True) -> LambdaOperator:
    """The matrix as an operator, in the matrix's own dtype; a product adds to `calls`."""

    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype, symmetric=symmetric)


@st.composite
def spectra(draw: st.DrawFn, n: int, *, semidefinite: bool = False) -> Tensor:
    """Clustered, repeated, zero, of low rank, wildly scaled, and negative unless `semidefinite`."""
    kind = draw(st.sampled_from(["clustered", "repeated", "zero", "low rank", "wild", "power law"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.rand(n, dtype=F64, generator=generator)
    if kind == "clustered":
        values = 1.0 + 1e-9 * noise
    elif kind == "repeated":
        values = (3 * noise).floor()
    elif kind == "zero":
        values = torch.zeros(n, dtype=F64)
    elif kind == "low rank":
        values = torch.where(torch.arange(n) < draw(st.integers(1, 3)), 1.0 + noise, 0.0)
    elif kind == "wild":
        values = 10.0 ** (40 * noise - 20)
    else:
        values = torch.arange(1, n + 1, dtype=F64) ** -2.0
    if semidefinite:
        return values
    signs = draw(st.sampled_from([1.0, -1.0, 0.0]))
    return values * (signs or torch.where(noise > 0.5, 1.0, -1.0))


@st.composite
def matrices(draw: st.DrawFn, n: int, *, semidefinite: bool = False) -> Tensor:
    """Dense symmetric matrices with such spectra."""
    return symmetric_matrix(draw(spectra(n, semidefinite=semidefinite)), seed=draw(st.integers(0, 100)))
