"""Several algorithms on one operator: the results of each alone, in fewer passes over the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp
from torch import Tensor

from curvkit_core import GGNOperator, LambdaOperator
from curvkit_core.algorithms import Eigsh, Hutchinson, HutchPlusPlus, SpectralDensity, Together, run, run_together

A = symmetric_matrix(torch.linspace(-3, 5, 60, dtype=F64))
PARTS = (Eigsh(k=3, ncv=12, seed=0), Hutchinson(num_matvecs=7, seed=1), SpectralDensity(num_probes=2, steps=9, seed=2))


def operator() -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, 60, dtype=F64)


def same(a: Any, b: Any) -> None:
    """Equal to rounding: a product of one row and of several round alike here, Gram matrices may not."""
    for f in attrs.fields(type(a)):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, Tensor):
            assert torch.allclose(x.double(), y.double(), rtol=1e-9, atol=1e-9), f.name
        elif f.name not in ("info", "sigma", "estimate", "stderr"):
            assert x == y, f.name


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_results_are_those_of_each_alone(rows: int) -> None:
    """Whatever the room; counts are each one's own, and add up to the driver's."""
    results = run_together(PARTS, operator(), max_rows=rows)
    for algorithm, result in zip(PARTS, results, strict=True):
        alone = run(algorithm, operator())
        same(result, alone)
        assert result.info.algorithm == type(algorithm).__name__
        assert result.info.num_matvecs == result.num_matvecs == alone.num_matvecs
    combined = run(Together(algorithms=PARTS), operator(), max_rows=rows)
    assert combined.num_matvecs == combined.info.num_matvecs == sum(r.num_matvecs for r in results)


def test_passes_over_the_data_are_shared() -> None:
    """Two estimators of 8 products each in blocks of 4: four passes instead of eight of two each, or sixteen."""
    reads: list[int] = []

    class Data(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            reads.append(1)
            return super().__iter__()

    case = tied_mlp()
    problem = type(case.problem())(case.model, Data(case.batches()), case.loss, preflight="off")
    op = GGNOperator(problem, cache="rebuild")
    parts = (Hutchinson(num_matvecs=8, seed=0), Hutchinson(num_matvecs=8, seed=1))
    run_together(parts, op, max_rows=16)
    shared = len(reads)
    reads.clear()
    for part in parts:
        run(part, op, max_rows=16)
    assert shared == 1 and len(reads) == 2


def test_turns_are_fair() -> None:
    """With room for one row, neither waits for the other's end."""
    parts = (Hutchinson(num_matvecs=10, seed=0), HutchPlusPlus(num_matvecs=10, seed=0))
    combined = run(Together(algorithms=parts), operator(), max_rows=1, max_matvecs=10)
    assert [r.num_matvecs for r in combined.results] == [5, 5]


def test_it_is_resumed_like_any_algorithm(tmp_path: Path) -> None:
    whole = run(Together(algorithms=PARTS), operator())
    run(Together(algorithms=PARTS), operator(), max_matvecs=20, checkpoint=tmp_path)
    resumed = run(Together(algorithms=PARTS), operator(), checkpoint=tmp_path)
    for a, b in zip(resumed.results, whole.results, strict=True):
        for f in attrs.fields(type(a)):
            x, y = getattr(a, f.name), getattr(b, f.name)
            assert f.name == "info" or (torch.equal(x, y) if isinstance(x, Tensor) else x == y), f.name


def test_inputs_go_to_their_own() -> None:
    start = torch.zeros(60, dtype=F64)
    start[0] = 1.0
    diagonal = LambdaOperator(lambda v: torch.arange(60, 0, -1, dtype=F64) * v, 60, dtype=F64)
    parts = (Eigsh(k=1), Hutchinson(num_matvecs=2, seed=0))
    first, _ = run_together(parts, diagonal, inputs=[{"start": start}, {}])
    assert first.seed is None and float(first.eigenvalues[0]) == 60.0
    with pytest.raises(ValueError, match="inputs has 1 mappings: expected 2"):
        run_together(parts, diagonal, inputs=[{}])
    with pytest.raises(ValueError, match="expected at least one algorithm"):
        Together(algorithms=())
    with pytest.raises(ValueError, match="Together needs a symmetric operator"):
        run_together(parts, LambdaOperator(lambda v: v, 60, symmetric=False))


def test_progress_adds_up() -> None:
    events: list[Any] = []
    parts = (Hutchinson(num_matvecs=6, seed=0), Hutchinson(num_matvecs=9, seed=1))
    run_together(parts, operator(), max_rows=3, on_progress=events.append)
    assert {e.total for e in events} == {15}
    assert events[-1].done == 15 and events[-1].seconds_left == 0.0
    assert all(e.seconds_left is not None and e.seconds_left >= 0 for e in events)
