"""What the algorithms cost and how right they are, beside SciPy and hessian-eigenthings.

    python benchmarks/algorithms.py [--parts outliers ...] [--repeats 5] [--threads 1] [--clock wall] [--json FILE]

Four parts. `outliers` and `decay`: the ten largest eigenvalues of a diagonal operator in float32 to a tolerance of
1e-4, by each solver in turn in one process: products, time as a ratio to SciPy's of the same repetition (median, and
quartiles in brackets), the largest relative error of a value. `bookkeeping`: eigsh's time outside of its products, on
the GPT-2-shaped network's kept GGN. `trace`: root mean square error of estimates on a spectrum i^-1.5.

A tool that is not installed is a row with the reason. The exit status is 1 if a number of curvkit's is above its goal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

PARTS = ("outliers", "decay", "bookkeeping", "trace")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of what is timed (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and one repetition: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads: expected at least 1")
    return args


def log(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def eigenvalue_lines(text: str, n: int, rows: list[dict[str, Any]]) -> list[str]:
    """A table of solvers."""
    lines = [f"eigenvalues: n = {n:,}, float32, {text}; k = 10, tol 1e-4"]
    lines.append(f"  {'solver':<28} {'products':>10} {'time / SciPy':>22} {'seconds':>9} {'error':>9}  goals missed")
    for row in rows:
        if "failed" in row:
            lines.append(f"  {row['solver']:<28} {row['failed']}")
            continue
        low, middle, high = row.get("ratio", (float("nan"),) * 3)
        ratio = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        products = f"{min(row['products'])}-{max(row['products'])}"
        seconds = sorted(row["seconds"])[len(row["seconds"]) // 2]
        said = ", ".join(row["missed"]) + ("" if row["converged"] else " not converged")
        lines.append(f"  {row['solver']:<28} {products:>10} {ratio:>22} {seconds:>9.2f} {row['error']:>9.1e}  {said}")
    return lines


def bookkeeping_lines(found: dict[str, Any]) -> list[str]:
    """The share of each operator, with its range."""
    lines = [f"bookkeeping of eigsh: {found['text']}, n = {found['n']:,}, kept graphs, {found['products']} products"]
    for row in found["rows"]:
        low, high = 100 * min(row["shares"]), 100 * max(row["shares"])
        text = f"{100 * row['share']:.1f} % of the products' time ({low:.1f}-{high:.1f})"
        lines.append(f"  {row['operator']:<28} {text}{'  above the goal' if row['missed'] else ''}")
    return lines


def trace_lines(found: dict[str, Any]) -> list[str]:
    """A table of methods."""
    lines = [f"trace: n = {found['n']:,}, eigenvalues i^-{found['power']}, {found['seeds']} seeds"]
    lines.append(f"  {'method':<28} {'products':>10} {'rms error':>10} {'/ hutchinson':>13} {'its stderr':>11}")
    for row in found["rows"]:
        if "failed" in row:
            lines.append(f"  {row['method']:<28} {row['failed']}")
            continue
        lines.append(
            f"  {row['method']:<28} {row['products']:>10} {row['error']:>10.1e} {row['ratio']:>13.3f} "
            f"{row['stderr']:>11.1e}{'  above the goal' if row['missed'] else ''}"
        )
    return lines


def main() -> int:
    """Print a table a part; 1 if a number of curvkit's is above its goal."""
    args = parse()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # SciPy's, which are read when it is imported
    import torch
    from algorithms.bookkeeping import measure_bookkeeping
    from algorithms.eigenvalues import SPECTRA, measure_eigenvalues
    from algorithms.facts import facts
    from algorithms.trace_error import measure_trace_error
    from matvec.timing import CLOCKS

    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")  # the tools' own
    machine = facts(args.threads)
    print(f"{machine['cpu']}, {machine['cores']} cores, {args.threads} threads, {args.clock} time")
    print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    clock = CLOCKS[args.clock]
    repeats = 1 if args.quick else args.repeats
    report: dict[str, Any] = {"schema": 1, "machine": machine, "repeats": repeats, "clock": args.clock, "parts": {}}
    missed: list[str] = []
    for part in args.parts:
        load = os.getloadavg()[0]
        if part in SPECTRA:
            spectrum = SPECTRA[part]
            n = 20_000 if args.quick else spectrum.n
            rows = measure_eigenvalues(spectrum, n=n, repeats=repeats, clock=clock, log=log)
            found: dict[str, Any] = {"n": n, "text": spectrum.text, "rows": rows}
            lines = eigenvalue_lines(spectrum.text, n, rows)
            missed += [f"{part} {row['solver']} ({', '.join(row['missed'])})" for row in rows if row.get("missed")]
        elif part == "bookkeeping":
            found = measure_bookkeeping(small=args.quick, repeats=min(repeats, 3), clock=clock, log=log)
            lines = bookkeeping_lines(found)
            missed += [f"{part} {row['operator']}" for row in found["rows"] if row["missed"]]
        else:
            found = measure_trace_error(repeats=3 if args.quick else 20, log=log)
            lines = trace_lines(found)
            missed += [f"{part} {row['method']}" for row in found["rows"] if row["missed"]]
        report["parts"][part] = {"load_before": load, **found}
        print("\n" + "\n".join(lines), flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    if missed and not args.quick:
        print(f"\nabove the goal: {'; '.join(missed)}")
    return 1 if missed and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
