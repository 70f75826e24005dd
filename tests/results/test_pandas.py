"""Results as frames of the real pandas: every result type, a sweep's groups, a run's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from cases import F64, symmetric_matrix

import curvkit_core as ck
from curvkit_core.results import types
from curvkit_core.results.types import PlaneResult, SweepResult, SweepRow
from curvkit_core.runs import Run, RunResult

pd = pytest.importorskip("pandas")

A = symmetric_matrix(torch.linspace(0.5, 4, 12, dtype=F64))
OP = ck.LambdaOperator(lambda v: A @ v, 12, dtype=F64)
ROW = SweepRow(group="a", n=3, trace=1.0, trace_stderr=0.1, share=0.25, frobenius_norm=1.0, frobenius_stderr=0.1,
               eigenvalues=(1.5, 0.5), residuals=(0.0, 0.1), converged=True)  # fmt: skip
SWEEP = SweepResult(by="layer", rows=(ROW, evolve(ROW, group="b")), trace=2.0,
                    trace_stderr=0.2, frobenius_norms=torch.eye(2),
                    coupling=0.1, coupling_stderr=0.01, probes=4, num_matvecs=8, seed=0, converged=True)  # fmt: skip


def slices() -> Any:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    problem = ck.Problem(model, [(torch.randn(6, 2).double(), torch.arange(6) % 2)], ck.CrossEntropyLoss())
    top = ck.eigsh(ck.HessianOperator(problem), k=2, seed=0)
    return ck.loss_slice(problem, top.eigenvectors, curvatures=top.eigenvalues, points=5)


b = torch.ones(12, dtype=F64)
MADE: dict[str, Any] = {
    "ConditionResult": lambda: ck.condition_number(OP, seed=0),
    "DensityResult": lambda: ck.spectral_density(OP, num_probes=2, steps=4, seed=0),
    "DiagonalResult": lambda: ck.diagonal(OP, num_matvecs=6, seed=0),
    "EigenResult": lambda: ck.eigsh(OP, k=3, seed=0),
    "FunctionResult": lambda: ck.matrix_function(OP, b, function="sqrt"),
    "LanczosResult": lambda: ck.lanczos_tridiagonal(OP, b, steps=4),
    "NormResult": lambda: ck.frobenius_norm(OP, num_matvecs=6, seed=0),
    "NystromResult": lambda: ck.nystrom(OP, rank=4, seed=0),
    "PlaneResult": lambda: PlaneResult(first_steps=torch.arange(2.0), second_steps=torch.arange(3.0),
                                       losses=torch.arange(6.0).reshape(2, 3)),
    "SliceResult": slices,
    "SolveResult": lambda: ck.solve(OP, b, damping=0.1),
    "SpectralNormResult": lambda: ck.spectral_norm(OP, seed=0),
    "SpectralSumResult": lambda: ck.logdet(OP, damping=0.1, num_probes=4, steps=6, seed=0),
    "SweepResult": lambda: SWEEP,
    "TraceResult": lambda: ck.trace(OP, method="hutchinson", num_matvecs=6, seed=0),
}  # fmt: skip
# rows, and a column that must be there
FRAMES = {
    "ConditionResult": (1, "estimate"),
    "DensityResult": (None, "density"),
    "DiagonalResult": (12, "stderr"),
    "EigenResult": (3, "residuals"),
    "LanczosResult": (4, "alpha"),
    "NormResult": (1, "stderr"),
    "NystromResult": (4, "eigenvalues"),
    "PlaneResult": (6, "loss"),
    "SliceResult": (2, "seen_curvatures"),
    "SpectralNormResult": (1, "residual"),
    "SpectralSumResult": (1, "bias_bound"),
    "SweepResult": (2, "trace_stderr"),
    "TraceResult": (1, "stderr"),
}


def test_every_result_type_is_made_here() -> None:
    """All of the catalogue; a KrylovResult is of vectors alone, and is what a FunctionResult is made from."""
    assert set(MADE) == {name for name in types.__all__ if name.endswith("Result")} - {"KrylovResult"}


@pytest.mark.parametrize("name", sorted(MADE))
def test_result_becomes_a_frame(name: str) -> None:
    """Rows and columns as they should be, numbers as numbers, none lost on the way."""
    result = MADE[name]()
    assert type(result).__name__ == name
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    rows, column = FRAMES.get(name, (None, None))
    assert rows is None or len(frame) == rows
    assert column is None or column in frame.columns
    for label in frame.columns if name != "SweepResult" else ():  # there the columns are the rows' fields
        value = getattr(result, label, None)
        if isinstance(value, torch.Tensor):
            assert frame[label].dtype.kind in "fib", label
            assert frame[label].tolist() == value.tolist()
        elif isinstance(value, float):
            (shown,) = frame[label]
            assert shown == value or (math.isnan(shown) and math.isnan(value))


def test_partial_eigenpairs_are_an_empty_frame_with_its_columns() -> None:
    """No eigenvalue yet: no row, and no number of something else in its place."""
    none = torch.empty(0, dtype=F64)
    frame = types.EigenResult(
        eigenvalues=none, eigenvectors=torch.empty(0, 3), residuals=none, converged=none.bool(), num_matvecs=0
    ).to_pandas()
    assert len(frame) == 0
    assert list(frame.columns) == ["eigenvalues", "residuals", "converged"]


def test_plane_is_a_row_a_point() -> None:
    """The loss at (s, t) stands beside s and t."""
    frame = MADE["PlaneResult"]().to_pandas()
    assert frame[(frame.first_step == 1.0) & (frame.second_step == 2.0)].loss.item() == 5.0


def test_run_is_a_table_of_numbers_with_errors() -> None:
    """A row a number: what pandas needs for a pivot over operators."""
    found = [MADE[name]() for name in ("EigenResult", "TraceResult", "SweepResult", "SliceResult")]
    results = tuple(
        RunResult(
            operator="core/ggn", algorithm=f"core/{i}", label=label, operator_index=j, algorithm_index=i,
            result=result, seconds=0.5,
        )
        for j, label in enumerate(("one", "two"))
        for i, result in enumerate(found)
    )  # fmt: skip
    frame = Run(plan={}, folder=Path("x"), problem={}, results=results).to_pandas()
    assert list(frame.columns) == ["operator", "algorithm", "quantity", "value", "error", "seconds"]
    assert len(frame) == 2 * (3 + 1 + 3)
    table = frame.pivot(index="operator", columns=["algorithm", "quantity"], values="value")
    assert table.loc["two", ("core/0", "eigenvalue 1")] == float(found[0].eigenvalues[0])
    assert frame[frame.quantity == "coupling"].error.tolist() == [0.01, 0.01]
    empty = Run(plan={}, folder=Path("x"), problem={}).to_pandas()
    assert list(empty.columns) == list(frame.columns)


def test_tracker_is_a_row_a_step() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2).double()
    data = [(torch.randn(6, 2).double(), torch.arange(6) % 2)]
    tracker = ck.CurvatureTracker(ck.Problem(model, data, ck.CrossEntropyLoss()), k=2, every=1, seed=0)
    for step in range(3):
        tracker(step, learning_rate=0.1)
    frame = tracker.to_pandas()
    assert frame.step.tolist() == [0, 1, 2]
    assert frame.sharpness.tolist() == [row.sharpness for row in tracker.rows]
