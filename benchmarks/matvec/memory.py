"""Memory, in a child process a cell: the peak of its resident set above what model, data and vector take.

The peak is the kernel's own high-water mark, reset through /proc/self/clear_refs (Linux) right before the product that
is measured. Before that the same product was run on a small network of the same kind, so that the libraries and their
buffers are there already, and once on the network itself: checks are over, graphs are built.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import evolve

from matvec.cells import CELLS
from matvec.workloads import WORKLOADS, Workload

__all__ = ["FORWARD", "GRADIENT", "SMALL", "measure_in_child", "measure_peak", "reset_peak", "resident", "trim"]

GRADIENT, FORWARD = "gradient", "forward graph"
#: A gradient's peak below which the libraries' own buffers hide a product's: such networks are not measured.
SMALL = 32 * 2**20
_SCRIPT = Path(__file__).parent.parent / "matvec.py"


def trim() -> None:
    """Give freed memory back to the system, so that it is not counted twice."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory; ``VmHWM``: the most since the last `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    msg = f"/proc/self/status has no {field}: expected Linux."
    raise RuntimeError(msg)


def reset_peak() -> None:
    """Begin a new high-water mark."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_peak(workload_name: str, cell_name: str, preflight: str) -> dict[str, int]:
    """Measure in this process, which should be fresh.

    Returns
    -------
    dict
        Bytes above model, data and vector: ``first``, the peak of the first product with what comes before it;
        ``peak`` of the second; ``held`` between products.
    """
    with_small = WORKLOADS[workload_name](small=True)
    _run(with_small, cell_name, twice=False)
    del with_small
    workload = evolve(WORKLOADS[workload_name](small=False), preflight=preflight)
    return _run(workload, cell_name, twice=True)


def _run(workload: Workload, cell_name: str, *, twice: bool) -> dict[str, int]:
    v = workload.direction()
    trim()
    base = resident()
    reset_peak()
    if cell_name == FORWARD:
        graph = workload.forward()
        trim()
        found = {"first": resident("VmHWM") - base, "peak": resident("VmHWM") - base, "held": resident() - base}
        del graph
        return found
    product = (lambda _: workload.gradient()) if cell_name == GRADIENT else CELLS[cell_name].make(workload)
    product(v)
    found = {"first": resident("VmHWM") - base}
    if twice:
        trim()
        reset_peak()
        product(v)
        found["peak"] = resident("VmHWM") - base
        trim()
        found["held"] = resident() - base
    return found


def measure_in_child(workload_name: str, cell_name: str, *, threads: int, preflight: str) -> dict[str, Any]:
    """Measure in a child; ``failed`` holds the reason where it did not end well."""
    command = [sys.executable, "-W", "ignore", str(_SCRIPT), "--threads", str(threads), "--preflight", preflight]
    command += ["--child", workload_name, cell_name]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        return {
            "failed": lines[-1].removeprefix("matvec.cells.")[:200] if lines else f"ended with code {child.returncode}"
        }
    found = json.loads(child.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found
