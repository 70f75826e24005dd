"""A pretrained language model's products, as ratios to one gradient of the model's own loss.

    python benchmarks/language_model.py --model MODEL --text FILE [--tokens 256] [--threads 2] [--clock wall]

MODEL is what ``[problem] kind = "hf/pretrained"`` takes: a folder, a GGUF file. Time: in one process, a gradient of
``model(**batch).loss`` before and after each product; the median of the ratios to the mean of the two, with
quartiles. Memory: a child process a cell; the peak of the resident set above model and input vector, in a second
product, as a ratio to the gradient's.

The goals are those of the arithmetic: kept 4/3 of a gradient and what the chunked head recomputes; lean two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matvec.memory import reset_peak, resident, trim
from torch import Tensor

from curvkit_core import GGNOperator, HessianOperator, Problem
from curvkit_hf.config import PretrainedConfig
from curvkit_hf.pretrained import build

GRADIENT = "gradient"
CELLS: dict[str, tuple[Callable[..., Any], dict[str, str], str]] = {
    "GGN, kept graph": (GGNOperator, {"strategy": "reverse", "cache": "keep"}, "time 1.6"),
    "GGN, lean": (GGNOperator, {"strategy": "lean"}, "time 2.4, memory 1.2"),
    "Hessian, kept graph": (HessianOperator, {"strategy": "reverse", "cache": "keep"}, ""),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Measure what the arguments name, and print a table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.cell:
        print(json.dumps(_peak(args, args.cell)))
        return
    cells = args.cells or list(CELLS)
    problem = _problem(args)
    print(f"{problem.description}; torch {torch.__version__}, {args.threads} threads, {args.clock} time")
    times = {} if args.no_time else _times(problem, cells, args)
    names = [] if args.no_memory else [GRADIENT, *cells]
    peaks = {name: _peak_in_child(name) for name in names}
    print(f"{'':22}{'time / gradient':>24}{'peak / gradient':>18}   goal")
    for name in cells:
        shown = "-" if name not in times else _spread(times[name])
        peak = "-" if name not in peaks else f"{peaks[name] / peaks[GRADIENT]:.2f}"
        print(f"{name:22}{shown:>24}{peak:>18}   {CELLS[name][2]}")
    if GRADIENT in times:
        print(f"a gradient takes {statistics.median(times[GRADIENT]):.2f} s")
    if GRADIENT in peaks:
        print(f"a gradient's peak is {peaks[GRADIENT] / 2**20:,.0f} MiB above the model and a vector")


def _times(problem: Problem, cells: list[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """One cell after the other, for each keeps graphs of gigabytes; a gradient before and after every product."""
    gradient, v, now = _gradient(problem), _direction(problem), CLOCKS[args.clock]
    gradient()
    found: dict[str, list[float]] = {GRADIENT: []}
    for name in cells:
        kind, options, _ = CELLS[name]
        operator = kind(problem.on_batches(problem.batches), **options)
        operator @ v  # the checks, and the building of what is kept
        operator @ v
        before, ratios = _seconds(gradient, now), []
        for _ in range(args.repeats):
            seconds = _seconds(lambda operator=operator: operator @ v, now)
            after = _seconds(gradient, now)
            ratios.append(seconds / (0.5 * (before + after)))
            found[GRADIENT].append(after)
            before = after
        found[name] = ratios
        print(f"{name}: {_spread(ratios)}", file=sys.stderr)
        del operator
        trim()
    return found


def _peak(args: argparse.Namespace, name: str) -> int:
    """Bytes above what model, data and vector hold, in this process; the checks, made once, are left out."""
    problem = _problem(args)
    problem.preflight = "off"
    v = _direction(problem)
    if name == GRADIENT:
        work = _gradient(problem)
    else:
        kind, options, _ = CELLS[name]
        trim()
        before = resident()
        operator = kind(problem, **options)
        work = lambda: operator @ v  # noqa: E731 - called once, below
    if name == GRADIENT:
        trim()
        before = resident()
    work()
    trim()
    reset_peak()
    work()
    return resident("VmHWM") - before


def _peak_in_child(name: str) -> int:
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--cell", name]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def _gradient(problem: Problem) -> Callable[[], Any]:
    """The gradient of the model's own loss on its own logits, as a training step computes it."""
    parameters = [e.parameter for e in problem.parameters]
    (batch,) = problem.batches

    def gradient() -> tuple[Tensor, ...]:
        loss = problem.model(**batch, labels=batch["input_ids"]).loss
        return torch.autograd.grad(loss, parameters)

    return gradient


def _problem(args: argparse.Namespace) -> Problem:
    config = PretrainedConfig(model=args.model, text=args.text, sequence_length=args.tokens, max_tokens=args.tokens)
    return build(config)


def _direction(problem: Problem) -> Tensor:
    v = problem.space.random("gaussian", 1, 0, 1)[0]
    return v.div_(v.norm())


def _seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a GGUF file")
    parser.add_argument("--text", required=True, help="a text file")
    parser.add_argument("--tokens", type=int, default=256, help="of the one row")
    parser.add_argument("--cells", nargs="+", choices=CELLS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="'cpu' on a busy machine, with one thread")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
