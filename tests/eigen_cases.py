"""Spectra that eigensolvers must bear, what their results are held to against the dense matrix, states on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from cases import F64, symmetric_matrix
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator

SPECTRA = {
    "spread": torch.linspace(-3, 5, 60, dtype=F64),
    "outliers": torch.cat([torch.linspace(0, 1, 57, dtype=F64), torch.tensor([10.0, 20.0, 40.0], dtype=F64)]),
    "negative": -(torch.linspace(1, 9, 60, dtype=F64) ** 2),
    "power-law": torch.arange(1, 61, dtype=F64) ** -2.0,
    "low-rank": torch.cat([torch.zeros(56, dtype=F64), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)]),
    "triple": torch.cat([torch.linspace(0, 1, 117, dtype=F64), torch.full((3,), 2.0, dtype=F64)]),
}


def counted(A: Tensor, dtype: torch.dtype | None = None, *, scale: float = 1.0) -> tuple[LambdaOperator, list[int]]:
    """The operator of `scale` A computed in `dtype`, and the list that each of its products adds to."""
    A = A.to(dtype or A.dtype)
    calls: list[int] = []
    return LambdaOperator(lambda v: (calls.append(1), (A @ v) * scale)[1], len(A), dtype=A.dtype), calls


def operator(A: Tensor, dtype: torch.dtype | None = None) -> LambdaOperator:
    """The operator of A computed in `dtype`."""
    return counted(A, dtype)[0]


def drive(algorithm: Any, op: LambdaOperator) -> Iterator[Any]:
    """Every state on the way."""
    state = algorithm.init(op.space)
    while (V := algorithm.ask(state, 1)) is not None:
        state = algorithm.tell(op.space, state, V, op.apply(V))
        yield state


def separate(state: Any) -> Any:
    """The same state, every tensor in storage of its own."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, list):
        return [separate(part) for part in state]
    if not attrs.has(type(state)):
        return state
    return type(state)(**{f.name: separate(getattr(state, f.name)) for f in attrs.fields(type(state))})


def wanted(A: Tensor, which: str, k: int) -> Tensor:
    """The k wanted eigenvalues of the dense matrix, or of a spectrum, in the order that a result has."""
    up = A.sort().values if A.ndim == 1 else torch.linalg.eigvalsh(A.double())
    if which == "LA":
        return up.flip(0)[:k]
    if which == "SA":
        return up[:k]
    if which == "LM":
        return up[up.abs().argsort(descending=True)][:k]
    high = (k + 1) // 2
    return torch.cat([up[: k - high], up[len(up) - high :]])


def residuals(result: Any, A: Tensor) -> Tensor:
    """|A q - theta q| in float64, of the pairs as they are."""
    V = result.eigenvectors.double()
    return (V @ A.double() - result.eigenvalues[:, None] * V).norm(dim=1)


def rounding(result: Any, A: Tensor) -> float:
    """What n-term dot products in the vectors' precision leave of |A|: sqrt(n) eps |A|, four times."""
    return (
        4.0
        * len(A) ** 0.5
        * torch.finfo(result.eigenvectors.dtype).eps
        * float(torch.linalg.matrix_norm(A.double(), 2))
    )


def assert_honest(result: Any, A: Tensor, *, slack: float = 1.01) -> None:
    """True residuals within those given, an eigenvalue within each; finite orthonormal rows; one row, one value."""
    gaps = residuals(result, A)
    assert bool(result.eigenvalues.isfinite().all() & result.eigenvectors.isfinite().all())
    assert (gaps <= slack * result.residuals + rounding(result, A)).all(), (gaps, result.residuals)
    up = torch.linalg.eigvalsh(A.double())
    distance = (result.eigenvalues[:, None] - up[None]).abs().amin(dim=1)
    assert (distance <= slack * result.residuals + rounding(result, A)).all()
    V = result.eigenvectors.double()
    eps = torch.finfo(result.eigenvectors.dtype).eps
    assert (V @ V.mT - torch.eye(len(V), dtype=F64)).abs().max() <= 50 * eps
    assert len(V) == len(result.eigenvalues) == len(result.residuals) == len(result.converged)


@st.composite
def spectra(draw: st.DrawFn, n: int) -> Tensor:
    """Clustered, repeated, zero, of low rank, wildly scaled, power laws; of either sign or both."""
    kind = draw(st.sampled_from(["clustered", "repeated", "zero", "low rank", "wild", "power law"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.rand(n, dtype=F64, generator=generator)
    values = {
        "clustered": 1.0 + 1e-9 * noise,
        "repeated": (3 * noise).floor(),
        "zero": torch.zeros(n, dtype=F64),
        "low rank": torch.where(torch.arange(n) < draw(st.integers(1, 3)), 1.0 + noise, 0.0),
        "wild": 10.0 ** (40 * noise - 20),
        "power law": torch.arange(1, n + 1, dtype=F64) ** -2.0,
    }[kind]
    return (
        values * draw(st.sampled_from([1.0, -1.0])) * torch.where(noise > draw(st.sampled_from([0.5, 2.0])), 1.0, -1.0)
    )


@st.composite
def matrices(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 5, 12, 40)) -> Tensor:
    """Dense symmetric matrices with such spectra."""
    n = draw(st.sampled_from(sizes))
    return symmetric_matrix(draw(spectra(n)), seed=draw(st.integers(0, 100)))
