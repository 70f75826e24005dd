"""One algorithm after another, fed with what the first found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import Chain, Eigsh, Hutchinson, Together, run

SPECTRUM = torch.linspace(-3, 5, 60, dtype=F64)
A = symmetric_matrix(SPECTRUM)
ROUGH_THEN_FINE = Chain(
    first=Eigsh(k=1, tol=1e-2, seed=0), then=Eigsh(k=1, tol=1e-10), carry=(("eigenvectors", "start"),)
)


def operator() -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, 60, dtype=F64)


def test_the_second_starts_from_what_the_first_found() -> None:
    """A rough eigenvector starts the fine run; counts add up, each result has its own record."""
    combined = run(ROUGH_THEN_FINE, operator())
    rough, fine = combined.results
    assert abs(float(fine.eigenvalues[0]) - 5.0) <= 1e-12 and fine.seed is None
    alone = run(Eigsh(k=1, tol=1e-10), operator(), inputs={"start": rough.eigenvectors})
    assert torch.equal(alone.eigenvalues, fine.eigenvalues)
    assert combined.num_matvecs == rough.num_matvecs + fine.num_matvecs == combined.info.num_matvecs
    assert (rough.info.num_matvecs, fine.info.num_matvecs) == (rough.num_matvecs, fine.num_matvecs)


@pytest.mark.parametrize("stop", [3, 21, 30])
def test_it_is_resumed_in_either_part(tmp_path: Path, stop: int) -> None:
    whole = run(ROUGH_THEN_FINE, operator())
    partial = run(ROUGH_THEN_FINE, operator(), max_matvecs=stop, checkpoint=tmp_path)
    assert (partial.results[1] is None) == (stop < whole.results[0].num_matvecs)
    resumed = run(ROUGH_THEN_FINE, operator(), checkpoint=tmp_path)
    for a, b in zip(resumed.results, whole.results, strict=True):
        for f in attrs.fields(type(a)):
            x, y = getattr(a, f.name), getattr(b, f.name)
            assert f.name == "info" or (torch.equal(x, y) if isinstance(x, Tensor) else x == y), f.name


def test_it_nests() -> None:
    """A chain beside another algorithm."""
    parts = (ROUGH_THEN_FINE, Hutchinson(num_matvecs=4, seed=0))
    combined = run(Together(algorithms=parts), operator())
    chain, trace = combined.results
    assert abs(float(chain.results[1].eigenvalues[0]) - 5.0) <= 1e-12
    assert chain.results[1].info.algorithm == "Eigsh" and trace.info.algorithm == "Hutchinson"


def test_a_field_that_is_not_there_is_named() -> None:
    chain = Chain(first=Hutchinson(num_matvecs=2, seed=0), then=Eigsh(k=1), carry=(("eigenvector", "start"),))
    with pytest.raises(ValueError, match="TraceResult has no field 'eigenvector'; it has estimate"):
        run(chain, operator())


def test_the_end_is_known_in_the_second() -> None:
    events: list[Any] = []
    chain = Chain(first=Hutchinson(num_matvecs=3, seed=0), then=Hutchinson(num_matvecs=5, seed=0))
    run(chain, operator(), max_rows=1, on_progress=events.append)
    assert [e.total for e in events] == [None, None, 8, 8, 8, 8, 8, 8]
    assert [e.done for e in events] == list(range(1, 9))
