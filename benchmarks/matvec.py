"""What a product costs: curvkit beside hessian-eigenthings, curvlinops and PyHessian, as ratios to a gradient.

    python benchmarks/matvec.py [--workload gpt2 ...] [--cells curvkit-ggn-keep ...] [--repeats 7] [--json FILE]

Time: in one process, one thread setting, a gradient (``torch.autograd.grad`` of the same loss) before and after each
product, all products in turn; the median over the repetitions of the ratio to the mean of the two, with quartiles.
Memory: a child process for each cell; the peak of the resident set above model, data and vector, as a ratio to a
gradient's measured in the same way; what is held between products as a ratio to the graph of one forward.
Each product is compared with one in float64 by ``torch.func``: the relative error shows which are exact.

The columns: `limit` is what the arithmetic takes and was written down before anything was measured, `goal` what
curvkit is to reach, `time` the ratio, `first` the first product with its checks and what it builds, `peak` and `held`
the memory. A tool that is not installed, or cannot do it, is a row with the reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matvec.cells import Cell

DEFAULT_WORKLOADS = ("mlp", "mlp-wide", "cnn", "gpt2", "cnn-checkpointed", "gpt2-checkpointed")
DISTRIBUTIONS = ("curvkit-core", "torch", "hessian-eigenthings", "curvlinops-for-pytorch", "PyHessian")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=DEFAULT_WORKLOADS, help="which networks (default: all)")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="which rows (default: all; --list names them)")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of the times (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default: 2)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    parser.add_argument(
        "--preflight", choices=("error", "off"), default="error", help="curvkit's checks before a first product"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and two repetitions: does it run at all")
    parser.add_argument("--no-time", action="store_true", help="memory only")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--child", nargs=2, metavar=("WORKLOAD", "CELL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads: expected at least 1")
    return args


def machine(threads: int) -> dict[str, Any]:
    """Plain facts that a reader needs to place the numbers."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": threads,
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def measure_memory(name: str, cells: list[Cell], args: argparse.Namespace) -> dict[str, Any]:
    """Measure a gradient, a forward's graph and the cells, a child process each."""
    from matvec.memory import FORWARD, GRADIENT, SMALL, measure_in_child

    memory: dict[str, Any] = {}
    for part in (GRADIENT, FORWARD, *(cell.name for cell in cells)):
        log(f"{name}: memory of {part}")
        memory[part] = measure_in_child(name, part, threads=args.threads, preflight=args.preflight)
        if memory[GRADIENT].get("peak", 0) < SMALL:
            break
    return memory


def log(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Print a table a workload; 1 if a number of curvkit's is above its goal."""
    args = parse()
    import torch
    from attrs import evolve
    from matvec.cells import CELLS
    from matvec.memory import measure_peak
    from matvec.table import rows_of, text_of
    from matvec.timing import measure_times
    from matvec.workloads import WORKLOADS

    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure_peak(*args.child, args.preflight)))
        return 0
    if args.list:
        for cell in CELLS.values():
            print(f"{cell.name:<22} {cell.tool:<20} {cell.matrix:<17} {cell.how}")
        return 0
    unknown = sorted(set(args.cells or ()) - set(CELLS))
    if unknown:
        print(f"unknown cells: {', '.join(unknown)}. Known: {', '.join(CELLS)}", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore")  # the tools' own: of deprecations, of double backward's reference cycles
    chosen = [cell for cell in CELLS.values() if not args.cells or cell.name in args.cells]
    facts = machine(args.threads)
    print(f"{facts['cpu']}, {facts['cores']} cores, {args.threads} threads, Python {facts['python']}")
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    repeats = 2 if args.quick else args.repeats
    report: dict[str, Any] = {
        "schema": 1,
        "machine": facts,
        "repeats": repeats,
        "clock": args.clock,
        "preflight": args.preflight,
        "workloads": {},
    }
    over = []
    for name in args.workload or DEFAULT_WORKLOADS:
        workload = evolve(WORKLOADS[name](small=args.quick), preflight=args.preflight)
        # Graphs that are recomputed see the parameters that are there then: only curvkit swaps them until the end.
        cells = [cell for cell in chosen if cell.tool == "curvkit" or not workload.checkpointed]
        load = os.getloadavg()[0]
        memory = None if args.no_memory or args.quick else measure_memory(name, cells, args)
        times = None if args.no_time else measure_times(workload, cells, repeats=repeats, clock=args.clock, log=log)
        rows = rows_of(workload, times, memory)
        report["workloads"][name] = {
            "text": workload.text,
            "n": workload.num_parameters,
            "load_before": load,
            "gradient_seconds": times["gradient_seconds"] if times else None,
            "memory_bytes": memory,
            "rows": rows,
        }
        print(f"\n{text_of(workload, rows, times, memory)}", flush=True)
        over += [f"{name} {row['cell']} ({', '.join(row['missed'])})" for row in rows if row["missed"]]
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    ours = [text for text in over if " curvkit-" in text]
    if ours and not args.quick:
        print(f"\nabove the goal: {'; '.join(ours)}")
    return 1 if ours and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
