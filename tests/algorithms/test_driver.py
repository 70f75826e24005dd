"""The driver alone multiplies: it counts, keeps budgets, refuses what is not finite, and stops cleanly."""

from __future__ import annotations

import os
import signal
import time
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from cases import F64, tied_mlp
from torch import Tensor

from curvkit_core import (
    CallableLoss,
    HessianOperator,
    LambdaOperator,
    condition_number,
    diagonal,
    effective_dimension,
    eigsh,
    frobenius_norm,
    lanczos_tridiagonal,
    logdet,
    matrix_function,
    nystrom,
    solve,
    spectral_density,
    spectral_sum,
    trace,
)
from curvkit_core.algorithms import (
    LOBPCG,
    BlockLanczos,
    ConditionNumber,
    Diagonal,
    EffectiveDimension,
    Eigsh,
    FrobeniusNorm,
    Hutchinson,
    LanczosTridiagonal,
    LogDet,
    MatrixFunction,
    NonFiniteProductError,
    Nystrom,
    PowerIteration,
    Solve,
    SpectralDensity,
    SpectralNorm,
    SpectralSum,
    Trace,
    block_lanczos,
    lobpcg,
    power_iteration,
    run,
    spectral_norm,
)

DIAGONAL = torch.arange(1, 31, dtype=F64)


def diagonal_operator() -> LambdaOperator:
    return LambdaOperator(lambda v: DIAGONAL * v, 30, dtype=F64)


@pytest.mark.parametrize(
    ("function", "algorithm", "inputs"),
    [
        (eigsh, Eigsh, {"start"}),
        (block_lanczos, BlockLanczos, {"start"}),
        (lobpcg, LOBPCG, {"start", "preconditioner"}),
        (power_iteration, PowerIteration, {"start"}),
        (spectral_norm, SpectralNorm, {"start"}),
        (lanczos_tridiagonal, LanczosTridiagonal, set()),
        (trace, Trace, set()),
        (diagonal, Diagonal, set()),
        (frobenius_norm, FrobeniusNorm, set()),
        (spectral_density, SpectralDensity, set()),
        (spectral_sum, SpectralSum, set()),
        (logdet, LogDet, set()),
        (effective_dimension, EffectiveDimension, set()),
        (solve, Solve, {"start", "preconditioner"}),
        (nystrom, Nystrom, set()),
        (matrix_function, MatrixFunction, set()),
        (condition_number, ConditionNumber, {"start"}),
    ],
)
def test_a_functions_options_are_its_class_fields(function: Any, algorithm: type, inputs: set[str]) -> None:
    """Names, order and defaults."""
    options = {
        name: p.default
        for name, p in signature(function).parameters.items()
        if p.kind is Parameter.KEYWORD_ONLY and name not in inputs | {"on_progress"}
    }
    assert options == {f.name: f.default for f in attrs.fields(algorithm)}
    assert list(options) == [f.name for f in attrs.fields(algorithm)]


def test_budget_of_products_is_kept() -> None:
    result = run(Hutchinson(num_matvecs=99, seed=0), diagonal_operator(), max_matvecs=10, max_rows=4)
    assert result.num_matvecs == result.info.num_matvecs == len(result.samples) == 10
    assert result.info.interrupted == "matvecs"
    assert run(Hutchinson(num_matvecs=9, seed=0), diagonal_operator(), max_matvecs=9).info.interrupted == ""


def test_budget_of_seconds_is_kept() -> None:
    """Products of 20 ms: none is begun that would end after the budget."""
    op = LambdaOperator(lambda v: (time.sleep(0.02), DIAGONAL * v)[1], 30, dtype=F64)
    begun = time.perf_counter()
    result = run(Hutchinson(num_matvecs=1000, seed=0), op, max_seconds=0.3, max_rows=1)
    assert time.perf_counter() - begun < 2.0
    assert 1 <= result.num_matvecs < 16
    assert result.info.interrupted == "seconds"


def test_interruption_gives_the_best_so_far() -> None:
    """Ctrl-C in the seventh product: six are used, the handler is as it was."""
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return DIAGONAL * v

    result = run(Hutchinson(num_matvecs=99, seed=0), LambdaOperator(product, 30, dtype=F64), max_rows=1)
    assert result.info.interrupted == "keyboard"
    assert result.num_matvecs == 6
    assert torch.equal(result.samples, trace(diagonal_operator(), method="hutchinson", num_matvecs=6, seed=0).samples)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_non_finite_product_is_refused_by_number_and_parameter() -> None:
    """Which product, which parameter."""
    case = tied_mlp()

    def loss(model: Any, batch: Any) -> Tensor:
        # sqrt at 0 has no second derivative; its first is masked, its value finite
        return (model.last.bias * 0.0).sum().abs().sqrt() + model(batch[0]).square().mean()

    with torch.no_grad():
        case.model.last.bias.zero_()
    problem = type(case.problem())(case.model, case.batches(), CallableLoss(loss), preflight="off")
    op = HessianOperator(problem)
    with pytest.raises(NonFiniteProductError, match=r"product 1 of HessianOperator.* first in parameter 'last.bias'"):
        trace(op, num_matvecs=4, seed=0)
    bad = LambdaOperator(lambda v: v / 0.0, 3)
    with pytest.raises(NonFiniteProductError, match="product 2 of LambdaOperator.* first in element 0"):
        run(Hutchinson(num_matvecs=4, seed=0), bad, max_rows=2)


def test_progress_tells_products_and_total() -> None:
    events: list[Any] = []
    trace(diagonal_operator(), num_matvecs=12, seed=0, on_progress=events.append)
    assert [e.total for e in events] == [12] * len(events)
    assert events[-1].done == events[-1].matvecs == 12
    assert all(a.matvecs < b.matvecs and a.seconds <= b.seconds for a, b in pairwise(events))


def test_rows_beyond_the_limit_are_refused() -> None:
    """An algorithm that ignores max_rows would overspend a budget."""

    class Greedy(Hutchinson):
        def ask(self, state: Any, max_rows: int) -> Tensor | None:
            return state.pending

    with pytest.raises(ValueError, match=r"Greedy.ask gave 16 rows: expected 1 to 3"):
        run(Greedy(seed=0), diagonal_operator(), max_rows=3)
    with pytest.raises(ValueError, match="max_matvecs=0: expected a positive number"):
        run(Hutchinson(), diagonal_operator(), max_matvecs=0)


def test_provenance_is_complete() -> None:
    """Operator, data and options are put down with the result."""
    problem = tied_mlp().problem()
    info = eigsh(HessianOperator(problem), k=2, seed=5).info
    assert (info.operator, info.algorithm, info.seed, info.weighting) == ("HessianOperator", "Eigsh", 5, "unit")
    assert info.units == 11
    assert info.options["k"] == 2
    assert info.parameter_names == problem.parameters.names
    assert info.seconds > 0
    assert {"python", "torch", "curvkit-core"} <= set(info.versions)
    assert "residual" in info.error_covers
