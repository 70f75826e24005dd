"""What a language model's head costs: cross-entropy with and without its logits, as ratios to a plain gradient.

    python benchmarks/kernels.py [--workload gpt2 ...] [--cells NAME ...] [--repeats 5] [--json FILE]

Time: in one process, a plain gradient (``torch.autograd.grad`` of ``cross_entropy`` on logits) before and after each
cell, all cells in turn; the median over the repetitions of the ratio to the mean of the two, with quartiles. Memory: a
child process a cell; the peak of the resident set above model, data and vector, as a ratio to that gradient's. The
error is that of the product against the materialising way, both in float32.

`limit` is what the arithmetic takes: matmuls of the head's size and of the body's, counted in forwards, times their
share of a gradient's. `goal` is what curvkit is to reach. On a GPU nothing has been measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from matvec.memory import reset_peak, resident, trim
from matvec.workloads import GPT2Shape
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import CrossEntropyLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.kernels import linear_ce, linear_ce_ggn
from curvkit_core.losses import LinearCrossEntropyLoss

GRADIENT = "gradient"
Product = Callable[[Tensor], Tensor]


@frozen(kw_only=True, eq=False)
class Workload:
    """A model with ``features`` and a tied head ``tokens``, and tokens in one row. `body` is its share of the flops."""

    text: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's."""
        return list(self.model.parameters())

    def direction(self) -> Tensor:
        """A vector of norm 1."""
        n = sum(p.numel() for p in self.parameters)
        v = torch.randn(n, generator=torch.Generator().manual_seed(1))
        return v / v.norm()

    def gradient(self, _: Tensor) -> Tensor:
        """The plain one, as training loops are written: the logits live to the end."""
        logits = self.model(self.inputs)
        loss = functional.cross_entropy(logits, self.targets)
        return _flat(torch.autograd.grad(loss, self.parameters))


class Head(nn.Module):
    """A head alone: hidden states are its other parameter."""

    def __init__(self, vocabulary: int, width: int, rows: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.hidden = nn.Parameter(torch.randn(rows, width))

    def features(self, _: Tensor) -> Tensor:
        """The parameter."""
        return self.hidden

    def forward(self, _: Tensor) -> Tensor:
        """Logits."""
        return functional.linear(self.hidden, self.tokens.weight)


def gpt2(*, small: bool) -> Workload:
    """GPT-2's shape: V = 50,257, 4 layers, width 256, 8 x 256 tokens, tied."""
    vocabulary, layers, width, rows, length = (101, 2, 16, 2, 16) if small else (50_257, 4, 256, 8, 256)
    torch.manual_seed(0)
    model = GPT2Shape(vocabulary, layers, width, 4, length=length, checkpointed=False).eval()
    inputs, targets = torch.randint(vocabulary, (2, rows * length))
    text = f"GPT-2 shape, V = {vocabulary:,}, {layers} layers, width {width}, {rows} x {length} tokens, tied"
    return Workload(text=text, model=model, inputs=inputs, targets=targets)


def wide_head(*, small: bool) -> Workload:
    """A head alone at Qwen's vocabulary: V = 151,936, width 256, 4 x 128 tokens."""
    vocabulary, width, rows = (151, 16, 8) if small else (151_936, 256, 512)
    torch.manual_seed(0)
    targets = torch.randint(vocabulary, (rows,))
    text = f"head alone, V = {vocabulary:,}, width {width}, {rows} tokens"
    return Workload(text=text, model=Head(vocabulary, width, rows).eval(), inputs=targets, targets=targets)


WORKLOADS: dict[str, Callable[..., Workload]] = {"gpt2": gpt2, "wide-head": wide_head}


@frozen(kw_only=True, eq=False)
class Cell:
    """One way to a product, its goals, and the materialising cell that it is held against."""

    name: str
    make: Callable[[Workload], Product]
    against: str = ""
    goals: dict[str, float] = field(factory=dict)


def _operator(kind: Callable[..., Any], chunked: bool, **options: str) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        loss = LinearCrossEntropyLoss("features", "tokens") if chunked else CrossEntropyLoss()
        data = [(workload.inputs, workload.targets)]
        product: Product = kind(Problem(workload.model, data, loss, preflight="off"), **options).__matmul__
        return product

    return make


def _chunked_gradient(workload: Workload) -> Product:
    def product(_: Tensor) -> Tensor:
        hidden = workload.model.features(workload.inputs)
        loss = linear_ce(hidden, workload.model.tokens.weight, None, workload.targets) / len(workload.targets)
        return _flat(torch.autograd.grad(loss, workload.parameters))

    return product


def _kernel_ggn(workload: Workload) -> Product:
    """The kernel alone, of a head alone: no operator around it."""

    def product(v: Tensor) -> Tensor:
        shapes = [p.shape for p in workload.parameters]
        parts = [t.view(s) for t, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
        named = dict(zip([n for n, _ in workload.model.named_parameters()], parts, strict=True))
        hidden, weight = workload.model.hidden, workload.model.tokens.weight
        found = linear_ce_ggn(hidden, weight, None, workload.targets, named["hidden"], named["tokens.weight"], None)
        by_name = {"hidden": found[0], "tokens.weight": found[1]}
        return _flat([by_name[n] for n, _ in workload.model.named_parameters()]) / len(workload.targets)

    return product


def _cells() -> dict[str, Cell]:
    kinds = {"ggn": GGNOperator, "hessian": HessianOperator, "fisher": EmpiricalFisherOperator}
    ways = {
        "keep": {"strategy": "reverse", "cache": "keep"},
        "rebuild": {"strategy": "reverse", "cache": "rebuild"},
        "lean": {"strategy": "lean", "cache": "rebuild"},
    }
    goals = {
        "ggn-keep": {"time": 1.35, "peak": 1.0},
        "ggn-lean": {"peak": 1.0},
        "hessian-keep": {"peak": 1.3},
        "hessian-rebuild": {"peak": 1.3},
    }
    cells = [Cell(name="gradient-chunked", make=_chunked_gradient, against=GRADIENT)]
    for kind, way in (
        ("ggn", "keep"),
        ("ggn", "lean"),
        ("hessian", "keep"),
        ("hessian", "rebuild"),
        ("fisher", "keep"),
    ):
        name = f"{kind}-{way}"
        chunked = Cell(
            name=f"{name}-chunked",
            make=_operator(kinds[kind], True, **ways[way]),
            against=name,
            goals=goals.get(name, {}),
        )
        cells += [chunked, Cell(name=name, make=_operator(kinds[kind], False, **ways[way]))]
    cells.append(Cell(name="kernel-ggn", make=_kernel_ggn, against="ggn-keep"))
    return {cell.name: cell for cell in cells}


CELLS = _cells()


def _flat(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def product_of(workload: Workload, name: str) -> Product:
    """The product of a cell, or the plain gradient."""
    return workload.gradient if name == GRADIENT else CELLS[name].make(workload)


def measure_peak(workload_name: str, cell: str) -> dict[str, int]:
    """In this process, which should be fresh: ``first`` product's peak, a second one's ``peak``, ``held`` between."""
    small = WORKLOADS[workload_name](small=True)
    product_of(small, cell)(small.direction())  # the libraries' own buffers
    workload = WORKLOADS[workload_name](small=False)
    v = workload.direction()
    trim()
    base = resident()
    reset_peak()
    product = product_of(workload, cell)
    product(v)
    found = {"first": resident("VmHWM") - base}
    trim()
    found["held"] = resident() - base
    reset_peak()
    product(v)
    found["peak"] = resident("VmHWM") - base
    return found


def measure_in_child(workload: str, cell: str, threads: int) -> dict[str, Any]:
    """The same in a child; ``failed`` holds the reason where it did not end well."""
    command = [sys.executable, "-W", "ignore", __file__, "--threads", str(threads), "--child", workload, cell]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return {"failed": (child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"])[-1][:200]}
    found = json.loads(child.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def measure_times(workload: Workload, names: list[str], repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Ratios of each cell's time to the mean of the gradients around it, and its error against what it is held to."""
    v = workload.direction()
    products = {name: product_of(workload, name) for name in names}
    values = {GRADIENT: workload.gradient(v)}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        values[name] = products[name](v)
    errors = {}
    for name in names:
        other = values.get(CELLS[name].against)
        if other is not None:
            errors[name] = float((values[name] - other).norm() / other.norm())
    del values
    gradients = []
    for _ in range(repeats):
        before = _seconds(workload.gradient, v, clock)
        for name in names:
            own = _seconds(products[name], v, clock)
            after = _seconds(workload.gradient, v, clock)
            ratios[name].append(2 * own / (before + after))
            gradients.append(after)
            before = after
    return {"gradient_seconds": gradients, "ratios": ratios, "errors": errors}


def _seconds(product: Product, v: Tensor, clock: Callable[[], float]) -> float:
    gc.collect()
    start = clock()
    product(v)
    return clock() - start


def rows_of(
    names: list[str], times: dict[str, Any] | None, memory: dict[str, Any] | None, *, goals: bool
) -> list[dict[str, Any]]:
    """Medians, quartiles, memory as ratios, and which goals, which are set for the GPT-2 shape, are missed."""
    rows = []
    for name in names:
        row: dict[str, Any] = {"cell": name, "goals": CELLS[name].goals if goals else {}}
        if times:
            low, middle, high = _quartiles(times["ratios"][name])
            row |= {"time": middle, "low": low, "high": high, "error": times["errors"].get(name)}
        if memory and "peak" in memory[name] and "peak" in memory[GRADIENT]:
            row |= {key: memory[name][key] / memory[GRADIENT]["peak"] for key in ("peak", "first", "held")}
        elif memory:
            row["failed"] = memory[name].get("failed")
        row["missed"] = [key for key, goal in row["goals"].items() if row.get(key, 0.0) > goal]
        rows.append(row)
    return rows


def text_of(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [f"{'cell':<24}{'time':>7}{'quartiles':>15}{'goal':>6}{'error':>8}{'peak':>7}{'goal':>6}{'held':>6}"]
    for row in rows:
        spread = f"{row['low']:.2f} .. {row['high']:.2f}" if "low" in row else ""
        error = f"{row['error']:.0e}" if row.get("error") is not None else ""
        words = [_number(row.get("time")), spread, _number(row["goals"].get("time")), error]
        words += [_number(row.get("peak")), _number(row["goals"].get("peak")), _number(row.get("held"))]
        widths = (7, 15, 6, 8, 7, 6, 6)
        line = f"{row['cell']:<24}" + "".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True))
        note = row.get("failed") or (f"above: {', '.join(row['missed'])}" if row["missed"] else "")
        lines.append(f"{line}  {note}".rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="(default: all)")
    parser.add_argument("--cells", nargs="+", choices=CELLS, help="which rows (default: all that fit)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of the times (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default: 2)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, one thread")
    parser.add_argument("--no-time", action="store_true", help="memory only")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    parser.add_argument("--child", nargs=2, metavar=("WORKLOAD", "CELL"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Print a table a workload; 1 if a goal is missed."""
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")  # torch's own, of double backward's reference cycles
    if args.child:
        print(json.dumps(measure_peak(*args.child)))
        return 0
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    report: dict[str, Any] = {"schema": 1, "threads": args.threads, "torch": torch.__version__, "clock": args.clock}
    report["workloads"] = {}
    missed = []
    for workload_name in args.workload:
        workload = WORKLOADS[workload_name](small=args.quick)
        fitting = [n for n in CELLS if workload_name == "wide-head" or n != "kernel-ggn"]
        names = [n for n in args.cells or fitting if n in fitting]
        memory = None
        if not (args.no_memory or args.quick):
            memory = {}
            for name in (GRADIENT, *names):
                memory[name] = measure_in_child(workload_name, name, args.threads)
                print(f"{workload_name}: memory of {name}: {memory[name]}", file=sys.stderr, flush=True)
        times = None if args.no_time else measure_times(workload, names, args.repeats, clock)
        rows = rows_of(names, times, memory, goals=workload_name == "gpt2")
        report["workloads"][workload_name] = {"text": workload.text, "rows": rows, "memory": memory, "times": times}
        print(f"\n{workload.text}; {args.threads} threads, torch {torch.__version__}")
        if times:
            print(f"a gradient takes {statistics.median(times['gradient_seconds']):.2f} s")
        if memory:
            print(f"a gradient's peak is {memory[GRADIENT].get('peak', 0) / 2**20:,.0f} MiB")
        print(text_of(rows), flush=True)
        missed += [f"{workload_name} {row['cell']}" for row in rows if row["missed"]]
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    if missed and not args.quick:
        print(f"\nabove a goal: {', '.join(missed)}")
    return 1 if missed and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
