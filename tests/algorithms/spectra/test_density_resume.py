"""A4 for densities and sums: stopped again and again, saved and loaded, the result is bitwise the uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import EffectiveDimension, LogDet, SpectralDensity, run

A = symmetric_matrix(torch.cat([torch.linspace(0, 1, 36, dtype=F64), torch.tensor([5.0, 9.0, 20.0, 40.0], dtype=F64)]))
RUNS = [
    SpectralDensity(num_probes=5, steps=6, lockstep=2, seed=1),
    SpectralDensity(num_probes=5, steps=6, basis_storage="host", seed=1, scale="log"),
    SpectralDensity(method="kpm", num_probes=5, steps=6, lockstep=2, seed=1),
    SpectralDensity(method="deflated", num_outliers=3, num_probes=5, steps=6, lockstep=3, seed=1),
    LogDet(damping=0.1, num_probes=3, steps=6, seed=1),
    EffectiveDimension(damping=0.1, num_probes=3, steps=6, seed=1),
]


def operator(calls: list[int]) -> LambdaOperator:
    return LambdaOperator(lambda v: (calls.append(1), A @ v)[1], 40, dtype=F64)


def same(one: Any, other: Any) -> bool:
    """Every field but the record of the run, bit for bit."""
    values = [(getattr(one, f.name), getattr(other, f.name)) for f in attrs.fields(type(one)) if f.name != "info"]
    return all(torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b for a, b in values)


@pytest.mark.parametrize("algorithm", RUNS, ids=lambda a: f"{type(a).__name__}-{getattr(a, 'method', '')}")
def test_a_resumed_run_is_the_uninterrupted_one(algorithm: Any, tmp_path: Path) -> None:
    """In steps of 5 products, which fall inside rounds, between probes and into every phase."""
    whole = run(algorithm, operator([]), max_rows=2)
    calls: list[int] = []
    for products in range(5, whole.num_matvecs + 5, 5):
        resumed = run(algorithm, operator(calls), max_rows=2, max_matvecs=products, checkpoint=tmp_path / "checkpoint")
    assert len(calls) == resumed.num_matvecs == whole.num_matvecs
    assert same(resumed, whole)
    assert not same(run(attrs.evolve(algorithm, seed=2), operator([]), max_rows=2), whole)
