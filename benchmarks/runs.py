"""What `curvkit run` costs beside the same work by Python calls: time, processor time and peak memory.

    python benchmarks/runs.py [--repeats 5] [--hidden 256 128] [--out runs.json]

Both build core/digits-mlp and compute eigenvalues, trace and density of its Hessian and GGN with the same seeds, each
in a child process of its own, by turns; `run` also plans, keeps its state, and writes results and report. Ratios are of
medians. The results of the two are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN_FILE = """\
schema = 1
[problem]
kind = "core/digits-mlp"
hidden = {hidden}
epochs = 2
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/ggn"
[[algorithm]]
kind = "core/eigsh"
k = 10
seed = 0
[[algorithm]]
kind = "core/trace"
num_matvecs = 60
seed = 0
[[algorithm]]
kind = "core/spectral-density"
num_probes = 4
steps = 30
seed = 0
"""
CALLS = """\
import sys
import torch
from curvkit_core import GGNOperator, HessianOperator, eigsh, spectral_density, trace
from curvkit_core.problem.digits_config import DigitsMLPConfig
from curvkit_core.problem.digits_mlp import build

problem = build(DigitsMLPConfig(hidden={hidden}, epochs=2))
values = []
for kind in (HessianOperator, GGNOperator):
    op = kind(problem)
    values += eigsh(op, k=10, seed=0).eigenvalues.tolist()
    values.append(trace(op, num_matvecs=60, seed=0).estimate)
    values.append(float(spectral_density(op, num_probes=4, steps=30, seed=0).density.max()))
print(" ".join(map(repr, values)))
"""


def measured(command: list[str], folder: Path) -> dict[str, object]:
    """Wall time, processor time and peak memory of a child."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    begun = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, text
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024.0,
        "text": text,
    }


def values_of(folder: Path) -> list[float]:
    """The run's numbers, in the order that the calls print theirs."""
    from curvkit_core.runs import load_run

    values: list[float] = []
    for r in load_run(folder):
        if hasattr(r.result, "eigenvalues"):
            values += r.result.eigenvalues.tolist()
        else:
            values.append(r.result.estimate if hasattr(r.result, "estimate") else float(r.result.density.max()))
    return values


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[dict[str, object]]] = {"calls": [], "run": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.toml").write_text(RUN_FILE.format(hidden=list(args.hidden)))
        (folder / "calls.py").write_text(CALLS.format(hidden=tuple(args.hidden)))
        run = [sys.executable, "-m", "curvkit_core", "--no-plugins", "run", "run.toml", "--no-plots"]
        for number in range(args.repeats + 1):
            both = {
                "calls": measured([sys.executable, "calls.py"], folder),
                "run": measured([*run, "--out", f"out-{number}"], folder),
            }
            assert [float(v) for v in str(both["calls"]["text"]).split()] == values_of(folder / f"out-{number}")
            if number:  # the first pair warms the file cache
                for kind, row in both.items():
                    found[kind].append({key: value for key, value in row.items() if key != "text"})
    machine = platform.processor() or platform.machine()
    print(f"{machine}, hidden {args.hidden}, {args.repeats} pairs, equal numbers")
    print("              Python calls   curvkit run   ratio")
    ratios = {}
    for key in ("seconds", "cpu_seconds", "peak_mb"):
        calls, ran = (statistics.median(float(str(row[key])) for row in found[kind]) for kind in ("calls", "run"))
        ratios[key] = ran / calls
        print(f"{key:<12}  {calls:12.2f}  {ran:12.2f}  {ratios[key]:6.3f}")
    if args.out is not None:
        args.out.write_text(json.dumps({"rows": found, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
