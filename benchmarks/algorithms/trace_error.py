"""The error of a trace's estimate on a spectrum that decays like a power: XTrace and Hutch++ beside Hutchinson."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

__all__ = ["GOAL", "measure_trace_error"]

N, PRODUCTS, POWER = 2000, 120, 1.5
METHODS = ("hutchinson", "hutch++", "xtrace")
GOAL = 0.1  # XTrace's error over Hutchinson's


def measure_trace_error(*, repeats: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Root mean square of the relative error over seeds, a row a method; ``failed`` where a method is not there."""
    from curvkit_core import LambdaOperator, trace

    values = torch.arange(1, N + 1, dtype=torch.float64) ** -POWER
    # a random rotation: on a diagonal operator every sign probe of Hutchinson's is exact
    Q, _ = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    A = (Q * values) @ Q.mT
    op = LambdaOperator(lambda v: A @ v, N, dtype=torch.float64)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        log(f"trace: {method}")
        try:
            found = [trace(op, method=method, num_matvecs=PRODUCTS, seed=seed) for seed in range(repeats)]
        except Exception as error:  # noqa: BLE001 - a method that is not there is a row with the reason
            rows.append({"method": method, "failed": f"{type(error).__name__}: {error}".splitlines()[0][:100]})
            continue
        errors = torch.tensor([r.estimate for r in found], dtype=torch.float64) / float(values.sum()) - 1.0
        rows.append(
            {
                "method": method,
                "products": max(r.num_matvecs for r in found),
                "error": float(errors.square().mean().sqrt()),
                "stderr": median(r.stderr for r in found) / float(values.sum()),
            }
        )
    known = {row["method"]: row["error"] for row in rows if "error" in row}
    for row in rows:
        if "error" in row:
            row["ratio"] = row["error"] / known["hutchinson"]
        row["missed"] = ["error"] if row["method"] == "xtrace" and row.get("ratio", 0.0) > GOAL else []
    return {"n": N, "power": POWER, "seeds": repeats, "rows": rows}
