"""Time as ratios within one process: a gradient before and after each product, all of them in turn."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from matvec.cells import Cell, NotThereError
from matvec.oracle import products, relative_error
from matvec.workloads import Workload

__all__ = ["CLOCKS", "measure_times"]

_SAMPLE_SECONDS = 0.05
#: What --clock names. With one thread, the process's own time is less disturbed by others on a busy machine.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def _repetitions(work: Callable[[], Any]) -> int:
    """How often `work` is to be called so that one sample lasts at least 50 ms."""
    return max(1, round(_SAMPLE_SECONDS / _seconds(work, 1, time.perf_counter)))


def _seconds(work: Callable[[], Any], times: int, clock: Callable[[], float]) -> float:
    gc.collect()
    start = clock()
    for _ in range(times):
        work()
    return (clock() - start) / times


def measure_times(
    workload: Workload, cells: list[Cell], *, repeats: int, clock: str, log: Callable[[str], None]
) -> dict[str, Any]:
    """Measure each cell's time as the ratio to the mean of the gradients before and after it, `repeats` times.

    Returns
    -------
    dict
        ``gradient`` (seconds, a list) and ``cells``: name -> ``ratios``, ``first`` (its first product, with the checks
        and the building of what is kept, as a ratio), ``error`` (against float64), or ``failed``, the reason.
    """
    v = workload.direction()
    log(f"{workload.name}: the right products, in float64")
    right = products(workload, v)
    workload.gradient()
    times = _repetitions(workload.gradient)
    now = CLOCKS[clock]
    typical = min(_seconds(workload.gradient, times, now) for _ in range(3))

    results: dict[str, dict[str, Any]] = {}
    works: dict[str, Callable[[], Tensor]] = {}
    for cell in cells:
        log(f"{workload.name}: first product of {cell.name}")
        results[cell.name] = {"ratios": [], "error": None}
        try:
            product = cell.make(workload)
            start = now()
            result = product(v)
            results[cell.name]["first"] = (now() - start) / typical
            if cell.unit == "target" or workload.unit_is_sample:
                results[cell.name]["error"] = relative_error(result, right[cell.matrix])
            product(v)
        except NotThereError as error:
            results[cell.name]["failed"] = f"NotThereError: {error}"
            continue
        except Exception as error:  # noqa: BLE001 - a tool that cannot do it is a row of the table too
            results[cell.name]["failed"] = _one_line(error)
            continue
        works[cell.name] = lambda product=product: product(v)
    del right
    counts = {name: _repetitions(work) for name, work in works.items()}

    gradients: list[float] = []
    for repeat in range(repeats):
        log(f"{workload.name}: repetition {repeat + 1} of {repeats}")
        before = _seconds(workload.gradient, times, now)
        gradients.append(before)
        for name, work in works.items():
            seconds = _seconds(work, counts[name], now)
            after = _seconds(workload.gradient, times, now)
            results[name]["ratios"].append(seconds / (0.5 * (before + after)))
            gradients.append(after)
            before = after
    return {"gradient_seconds": gradients, "threads": torch.get_num_threads(), "cells": results}


def _one_line(error: Exception) -> str:
    last = traceback.format_exception_only(error)[-1].strip().splitlines()
    return (last[0] if last else type(error).__name__)[:200]
