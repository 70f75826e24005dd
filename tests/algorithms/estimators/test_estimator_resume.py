"""A4 for the estimators: stopped after any product, saved, loaded and gone on with, the result is bitwise the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import operator
from torch import Tensor

from curvkit_core.algorithms import Diagonal, FrobeniusNorm, Trace, run

A = symmetric_matrix(torch.arange(1, 61, dtype=F64) ** -1.5)
ESTIMATORS = [
    *(Trace(method=m, num_matvecs=13, seed=1) for m in ("hutchinson", "hutch++", "xtrace", "xnystrace")),
    *(Diagonal(method=m, num_matvecs=13, seed=1) for m in ("hutchinson", "xdiag", "xnysdiag")),
    FrobeniusNorm(num_matvecs=13, seed=1),
    Trace(method="xtrace", num_matvecs=99, seed=1),  # exact: n products
    Trace(method="xtrace", num_matvecs=54, tol=1e-9, seed=1),  # three stages
    Trace(method="xnystrace", num_matvecs=40, tol=1e-9, seed=1),
    Diagonal(method="xdiag", num_matvecs=54, tol=1e-9, seed=1),
]


def same(one: Any, other: Any) -> bool:
    """Every field but the record of the run, bit for bit."""
    values = [(getattr(one, f.name), getattr(other, f.name)) for f in attrs.fields(type(one)) if f.name != "info"]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in values)


@pytest.mark.parametrize("algorithm", ESTIMATORS, ids=lambda a: f"{type(a).__name__}-{getattr(a, 'method', '')}")
def test_a_resumed_run_is_the_uninterrupted_one(algorithm: Any, tmp_path: Path) -> None:
    """In steps of 1 or 7 products, each loaded from the checkpoint of the last."""
    whole = run(algorithm, operator(A), max_rows=3)
    step = 1 if whole.num_matvecs < 20 else 7
    calls: list[int] = []
    for products in range(step, whole.num_matvecs + step, step):
        resumed = run(
            algorithm, operator(A, calls), max_rows=3, max_matvecs=products, checkpoint=tmp_path / "checkpoint"
        )
        assert same(resumed, whole) == (products >= whole.num_matvecs)
    assert len(calls) == resumed.num_matvecs == whole.num_matvecs
