"""Whether two readings give the same data: a loader that draws others each time belongs to no one matrix."""

from __future__ import annotations

import math
from collections.abc import Sized

from torch.utils.data import DataLoader

from curvkit_core.checks.batch_statistics import uses_batch_statistics
from curvkit_core.checks.data_contents import Contents
from curvkit_core.checks.finding import Finding, note, report
from curvkit_core.problem.problem import Problem

__all__ = ["batch_order_matters", "compare_readings", "describe_loader"]

_CODE = "loader-changed"


def compare_readings(problem: Problem, first: Contents, second: Contents, *, batchwise: bool) -> None:
    """Report ``loader-changed`` where the operators over the two differ; say so where that cannot be told.

    Examples in another order are the same data, unless the operator depends on which of them share a batch
    (`batchwise`).
    """
    if first.batches == second.batches:
        return
    if batchwise:
        same, what = sorted(first.batches) == sorted(second.batches), "batches"
    else:
        same, what = first.all_rows == second.all_rows and first.rows == second.rows, "examples"
    if same:
        return
    loader = describe_loader(problem)
    changed = len(set(first.batches) ^ set(second.batches))
    seen = (
        f"{loader} gave other {what} when it was read again ({first.rows} rows, then {second.rows}; {first.units:g} "
        f"units, then {second.units:g}; {changed} batches found in one reading only)"
    )
    if problem.backend.world.size > 1:
        note(problem, _CODE, f"{seen} on this rank; whether all ranks together read the same data was not compared.")
    elif (
        not batchwise and not (first.by_row and second.by_row) and math.isclose(first.units, second.units, rel_tol=1e-5)
    ):
        note(problem, _CODE, f"{seen}; but examples are padded or packed together, so that they cannot be told apart.")
    else:
        report(problem, Finding(code=_CODE, seen=f"{seen}: each product is of another matrix.", mend=_mend(problem)))


def batch_order_matters(problem: Problem) -> bool:
    """Whether the operator depends on which examples share a batch. Asked while the model is in its mode."""
    return problem.weighting == "batch-mean" or bool(uses_batch_statistics(problem.model))


def describe_loader(problem: Problem) -> str:
    """The data's class, its sampler and length, as far as they can be told."""
    batches = problem.batches
    details = []
    if isinstance(batches, DataLoader):
        details += [f"dataset {type(batches.dataset).__name__}", f"sampler {type(batches.sampler).__name__}"]
    if isinstance(batches, Sized):
        details.append(f"{len(batches)} batches")
    if problem.num_batches is not None:
        details.append(f"num_batches={problem.num_batches}")
    return f"{type(batches).__name__}({', '.join(details)})"


def _mend(problem: Problem) -> str:
    if problem.num_batches is not None:
        return (
            "without shuffling (shuffle=False) num_batches takes the same batches each time; or draw them once: "
            "list(itertools.islice(loader, num_batches))."
        )
    return (
        "switch off random augmentation and subsampling, or read the data once: list(loader). Data that were changed "
        "on purpose make a new Problem."
    )
