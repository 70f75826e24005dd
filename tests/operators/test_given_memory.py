"""Products put into memory that the caller has: the same numbers, in that place, and nothing beside it touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp, tiny_transformer

from curvkit_core import (
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    LambdaOperator,
    eigsh,
)
from curvkit_core.operators import CurvatureOperator

CUTS: list[dict[str, Any]] = [{}, {"microbatch_size": 2}, {"weighting": "batch-mean"}]
OPERATORS = {
    "hessian": HessianOperator,
    "ggn": GGNOperator,
    "fisher": lambda problem, **options: FisherOperator(problem, seed=0, **options),
    "empirical": EmpiricalFisherOperator,
    "centred": lambda problem, **options: EmpiricalFisherOperator(problem, centered=True, **options),
    "sum": lambda problem, **options: 2.0 * HessianOperator(problem, **options) - GGNOperator(problem).shift(0.1),
}


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("strategy", ["reverse", "lean"])
@pytest.mark.parametrize("kind", list(OPERATORS))
def test_out_holds_the_product(kind: str, strategy: str, cut: dict[str, Any]) -> None:
    """Between the vectors and other rows of one tensor, as in a basis: bit for bit, and nothing else changed."""
    problem = tiny_transformer().problem(**cut)
    op = OPERATORS[kind](problem, strategy=strategy)
    rows = torch.full((5, op.n), float("nan"), dtype=op.dtype)
    rows[0] = op.space.random("gaussian", 0, 0, 1)[0]
    rows[4] = 7.0
    V, before = rows[:1], rows.clone()
    expected = op.apply(V)
    for place in (1, 2, 1):
        out = rows[place : place + 1]
        assert op.apply(V, out=out) is out
        assert torch.equal(out, expected)
        assert torch.equal(rows[0], before[0]) and torch.equal(rows[4], before[4])
    assert torch.equal(op.apply(V), expected)
    assert rows[3].isnan().all()


def test_kept_graphs_lay_the_product_out_there() -> None:
    """What is measured: no memory of a vector's size beside `out`, as there is without it."""
    problem = tied_mlp().problem()
    for op in (HessianOperator(problem, strategy="reverse"), GGNOperator(problem, strategy="reverse")):
        V = op.space.random("gaussian", 0, 0, 1)
        out = torch.empty_like(V)
        made = []
        plain = problem.parameters.flatten_rows

        def watched(rows: Any, *, out: Any = None, plain: Any = plain, made: list[Any] = made) -> Any:
            made.append(out)
            return plain(rows, out=out)

        problem.parameters.flatten_rows = watched
        try:
            op.apply(V, out=out)
            op.apply(V)
        finally:
            del problem.parameters.flatten_rows
        assert made[0] is out and made[1] is None


def test_memory_of_inference_mode_is_taken() -> None:
    """Which autograd refuses to write to inside."""
    op = HessianOperator(tied_mlp().problem())
    V = op.space.random("gaussian", 0, 0, 1)
    with torch.inference_mode():
        out = torch.empty_like(V)
        assert op.apply(V, out=out) is out
        assert torch.equal(out, op.apply(V))
        inside = eigsh(op, k=2, seed=0)
    assert torch.equal(inside.eigenvalues, eigsh(op, k=2, seed=0).eigenvalues)


@pytest.mark.parametrize(
    "out", [torch.empty(2, 6, dtype=F64), torch.empty(1, 6), torch.empty(6, dtype=F64), torch.empty(1, 5, dtype=F64)]
)
def test_memory_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    A = symmetric_matrix(torch.linspace(0, 1, 6, dtype=F64))
    op = LambdaOperator(lambda v: A @ v, 6, dtype=F64)
    with pytest.raises(
        ValueError, match=r"out is \(.*\), .*: expected \(1, 6\), torch.float64, cpu, as the products are"
    ):
        op.apply(torch.ones(1, 6, dtype=F64), out=out)


def test_an_operator_that_gives_its_argument_away_is_safe() -> None:
    """An identity: the product is a copy, so that an algorithm may overwrite it."""

    class Identity(CurvatureOperator):
        def rows_product(self, V: torch.Tensor) -> torch.Tensor:
            return V

    base = LambdaOperator(lambda v: v, 30, dtype=F64)
    result = eigsh(Identity(base.space), k=3, seed=0)
    assert (result.eigenvalues - 1.0).abs().max() <= 1e-13
    overlaps = result.eigenvectors @ result.eigenvectors.mT
    assert (overlaps - torch.eye(3, dtype=F64)).abs().max() <= 1e-13
