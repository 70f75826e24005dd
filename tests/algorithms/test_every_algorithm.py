"""What holds for every registered algorithm, with its default configuration: a new one is held to it unasked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, load_registry, load_result, save_result
from curvkit_core.algorithms import run
from curvkit_core.operators import CurvatureOperator

REGISTRY = load_registry(allow=[], environ={})
NAMES = [spec.name for spec in REGISTRY.algorithms]
# defaults that are for large operators; n is 40 here
SMALL: dict[str, dict[str, Any]] = {
    "core/eigsh": {"k": 3, "ncv": 12, "tol": 1e-8},
    "core/block-lanczos": {"k": 3, "ncv": 12, "tol": 1e-8},
    "core/lobpcg": {"k": 2},
    "core/lanczos-tridiagonal": {"steps": 14},
    "core/nystrom": {"rank": 6, "oversample": 4},
    "core/spectral-density": {"num_probes": 3, "steps": 10},
    "core/spectral-sum": {"num_probes": 3, "steps": 10, "damping": 0.1},
    "core/logdet": {"num_probes": 3, "steps": 10, "damping": 0.1},
    "core/effective-dimension": {"num_probes": 3, "steps": 10},
    "core/condition-number": {"ncv": 10},
    "core/trace": {"num_matvecs": 30},
    "core/diagonal": {"num_matvecs": 30},
    "core/frobenius-norm": {"num_matvecs": 30},
}
A = symmetric_matrix(torch.logspace(-2, 1, 40, dtype=F64))


def configured(name: str) -> Any:
    """The algorithm with seed 0 where it takes one."""
    cls = REGISTRY.load_factory(REGISTRY.algorithms.get(name))
    options = dict(SMALL.get(name, {}))
    if "seed" in attrs.fields_dict(cls):
        options["seed"] = 0
    return cls(**options)


def counted(matrix: Tensor = A) -> tuple[CurvatureOperator, list[int]]:
    calls: list[int] = []
    return LambdaOperator(lambda v: (calls.append(1), matrix @ v)[1], len(matrix), dtype=matrix.dtype), calls


def same(a: Any, b: Any, path: str = "result") -> None:
    """Bit for bit, field by field; provenance excepted."""
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0, equal_nan=True, msg=path)
    elif attrs.has(type(a)):
        for f in attrs.fields(type(a)):
            if f.name != "info":
                same(getattr(a, f.name), getattr(b, f.name), f"{path}.{f.name}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}.{i}")
    else:
        assert a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)), path


@pytest.mark.parametrize("name", NAMES)
def test_products_are_counted_and_the_result_is_kept(name: str, tmp_path: Path) -> None:
    """A3: the driver's count, the result's and the operator's own agree; the result is saved and read back."""
    op, calls = counted()
    result = run(configured(name), op)
    assert len(calls) == result.num_matvecs == result.info.num_matvecs > 0
    assert result.error_covers
    save_result(result, tmp_path / "kept")
    same(load_result(tmp_path / "kept"), result)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """A4: stopped after 1, 2, 5, 11 and 23 products, each time with all state read from files."""
    whole = run(configured(name), counted()[0], max_rows=3)
    for stop in (1, 2, 5, 11, 23):
        folder = tmp_path / str(stop)
        run(configured(name), counted()[0], max_rows=3, max_matvecs=stop, checkpoint=folder)
        op, late = counted()
        same(run(configured(name), op, checkpoint=folder), whole)
        assert len(late) == max(whole.num_matvecs - stop, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_operators_of_low_precision_are_taken(name: str, dtype: torch.dtype) -> None:
    """X31: an end is reached within the budget, with float32 vectors, whatever noise the products carry."""
    result = run(configured(name), counted(A.to(dtype))[0], max_matvecs=400)
    for f in attrs.fields(type(result)):
        value = getattr(result, f.name)
        assert not (isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)), f.name


@pytest.mark.parametrize("name", NAMES)
def test_a_product_that_is_not_finite_is_refused_in_the_middle(name: str) -> None:
    """Which product, whatever the algorithm."""
    from curvkit_core.algorithms import NonFiniteProductError

    calls: list[int] = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return A @ v * (float("nan") if len(calls) == 3 else 1.0)

    with pytest.raises(NonFiniteProductError, match="product 3 of LambdaOperator"):
        run(configured(name), LambdaOperator(product, 40, dtype=F64), max_rows=1)


@pytest.mark.parametrize("name", NAMES)
def test_progress_is_told(name: str) -> None:
    """An event a multiplication; what is done never shrinks, nor passes the total."""
    events: list[Any] = []
    run(configured(name), counted()[0], on_progress=events.append)
    assert events
    done = [e.done for e in events]
    assert done == sorted(done)
    assert all(e.total is None or e.done <= e.total for e in events)
