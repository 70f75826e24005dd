"""What the tests of eigensolvers share: dense operators and their spectra, true residuals, states on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from cases import F64
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import Eigsh
from curvkit_core.algorithms.eigenpairs.eigsh import EigshState
from curvkit_core.results import EigenResult


def operator(A: Tensor, dtype: torch.dtype | None = None) -> LambdaOperator:
    A = A.to(dtype or A.dtype)
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def wanted(eigenvalues: Tensor, which: str, k: int) -> Tensor:
    """The k wanted ones of a dense spectrum, in the order that a result has."""
    up = eigenvalues.sort().values
    if which == "LA":
        return up.flip(0)[:k]
    if which == "SA":
        return up[:k]
    if which == "LM":
        return up[up.abs().argsort(descending=True)][:k]
    high = (k + 1) // 2
    return torch.cat([up[: k - high], up[len(up) - high :]])


def true_residuals(result: EigenResult, A: Tensor) -> Tensor:
    vectors = result.eigenvectors.to(F64)
    return (vectors @ A - result.eigenvalues[:, None] * vectors).norm(dim=1)


def drive(algorithm: Eigsh, op: LambdaOperator) -> Iterator[EigshState]:
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


SPECTRA = {
    "spread": torch.linspace(-3, 5, 60, dtype=F64),
    "outliers": torch.cat([torch.linspace(0, 1, 57, dtype=F64), torch.tensor([10.0, 20.0, 40.0], dtype=F64)]),
    "negative": -(torch.linspace(1, 9, 60, dtype=F64) ** 2),
    "power-law": torch.arange(1, 61, dtype=F64) ** -2.0,
    "low-rank": torch.cat([torch.zeros(56, dtype=F64), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)]),
}
