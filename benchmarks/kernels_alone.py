"""The kernels alone, implementation beside implementation: `ce_hvp` on given logits and `linear_ce`'s two products.

    python benchmarks/kernels_alone.py [--device cuda] [--dtype float32] [--size N V D] [--repeats 7] [--json FILE]

Ways: `plain` is the formula as it is written, every temporary made; `core` the eager reference; `compile` and `triton`
are curvkit-triton's, the last where there is a GPU that it runs on. In turn within one process, the median with
quartiles; by device events on a GPU, else by the process's own CPU time on one thread. Memory, on a GPU, is the
allocator's peak above the arguments.

A rate stands beside a time: for `ce_hvp` bytes of the floor (logits and u once, the product once) a second, as a share
of what a copy reaches in the same run; for `linear_ce` the operations that core's way takes, as a share of what a
matmul of the head reaches. The baseline's fused kernel is not on PyPI: hessian-eigenthings 1.0.0a5 has none.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvkit_core.kernels import LinearCeOptions, ce_hvp, chunked_linear_ce

Ways = dict[str, Callable[[], Any]]


def plain_ce_hvp(logits: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    """The formula."""
    p = torch.softmax(logits, -1)
    return (p * u - p * (p * u).sum(-1, keepdim=True)) * weight[:, None]


def plain_product(h: Tensor, W: Tensor, dh: Tensor, dW: Tensor, targets: Tensor, newton: bool) -> tuple[Tensor, ...]:
    """Gauss-Newton or Hessian product of a linear head, on its logits."""
    p = torch.softmax((h @ W.mT).float(), -1)
    u = (dh @ W.mT + h @ dW.mT).float()
    y = (p * (u - (p * u).sum(-1, keepdim=True))).to(h.dtype)
    if newton:
        return y @ W, y.mT @ h
    p[torch.arange(len(p), device=p.device), targets] -= 1.0
    rho = p.to(h.dtype)
    return y @ W + rho @ dW, y.mT @ h + rho.mT @ dh


def ways(rows: int, words: int, width: int, device: str, dtype: torch.dtype) -> dict[str, tuple[Ways, float]]:
    """For each operation the implementations, and what its rate counts: bytes, or operations."""
    torch.manual_seed(0)
    h, dh = (torch.randn(rows, width, device=device, dtype=dtype) for _ in range(2))
    W, dW = (0.05 * torch.randn(words, width, device=device, dtype=dtype) for _ in range(2))
    targets = torch.randint(words, (rows,), device=device)
    z, u, s = h @ W.mT, dh @ W.mT, torch.ones(rows, device=device)
    heads: dict[str, Any] = {"core": chunked_linear_ce}
    products: dict[str, Any] = {"plain": plain_ce_hvp, "core": ce_hvp}
    if importlib.util.find_spec("curvkit_triton") is not None:
        from curvkit_triton import probes
        from curvkit_triton.compiled_ce_hvp import compiled_ce_hvp
        from curvkit_triton.compiled_linear_ce import compiled_linear_ce

        if probes.compiler()[0]:
            heads["compile"], products["compile"] = compiled_linear_ce, compiled_ce_hvp
        if device == "cuda" and probes.triton()[0]:
            from curvkit_triton.ce_hvp import ce_hvp as triton_ce_hvp
            from curvkit_triton.linear_ce import triton_linear_ce

            heads["triton"], products["triton"] = triton_linear_ce, triton_ce_hvp
    found: dict[str, tuple[Ways, float]] = {}
    named = {name: lambda f=f: f(z, s, u) for name, f in products.items()}
    found["ce_hvp"] = (named, 3.0 * z.numel() * z.element_size())
    for what, matmuls in (("gauss-newton", 5), ("hessian", 7)):
        newton = what == "gauss-newton"
        calls: Ways = {"plain": lambda n=newton: plain_product(h, W, dh, dW, targets, n)}
        for name, kernel in heads.items():
            calls[name] = lambda k=kernel, n=newton: k.product(
                (h, W, None),
                targets,
                LinearCeOptions(),
                None,
                (dh[None], dW[None], None),
                (True, True, False),
                gauss_newton=n,
            )
        found[f"linear_ce {what}"] = (calls, matmuls * 2.0 * rows * words * width)
    return found


def seconds(call: Callable[[], Any], device: str) -> float:
    """One call's time."""
    if device != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    call()
    end_event.record()
    torch.cuda.synchronize()
    return float(start_event.elapsed_time(end_event)) / 1000


def peak(call: Callable[[], Any], device: str) -> int | None:
    """Bytes above what is there before, on a GPU."""
    if device != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def measure(calls: Ways, repeats: int, device: str) -> dict[str, dict[str, Any]]:
    """Each way in turn, after one call that is not counted."""
    answers = {name: call() for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    rows = {}
    for name, call in calls.items():
        low, middle, high = statistics.quantiles(times[name], n=4, method="inclusive")
        gap = difference(answers[name], answers["core"])
        rows[name] = {"seconds": middle, "low": low, "high": high, "gap": gap, "peak": peak(call, device)}
    return rows


def rulers(rows: int, words: int, width: int, device: str, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Bytes a second that a copy of the logits reads and writes, and operations a second of a matmul of the head."""
    source = torch.randn(rows, words, device=device, dtype=dtype)
    target = torch.empty_like(source)
    left, right = (torch.randn(n, width, device=device, dtype=dtype) for n in (rows, words))
    copy, matmul = lambda: target.copy_(source), lambda: torch.mm(left, right.mT, out=target)
    found = measure({"core": copy, "matmul": matmul}, repeats, device)
    moved = 2.0 * source.numel() * source.element_size()
    return moved / found["core"]["seconds"], 2.0 * rows * words * width / found["matmul"]["seconds"]


def difference(found: Any, other: Any) -> float:
    """Of two answers, relative to the norm of the second."""
    flat = [torch.cat([t.double().reshape(-1) for t in (a if isinstance(a, tuple) else (a,))]) for a in (found, other)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def main() -> int:
    """Print a table an operation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--size", type=int, nargs=3, metavar=("N", "V", "D"), default=(512, 50_257, 256))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, of its compiler
    dtype = getattr(torch, args.dtype)
    rows, words, width = args.size
    card = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    print(f"{card}, torch {torch.__version__}, {args.dtype}, N = {rows:,}, V = {words:,}, D = {width:,}")
    copy, matmul = rulers(rows, words, width, args.device, dtype, args.repeats)
    print(f"a copy reaches {copy / 1e9:,.1f} GB/s, a matmul of the head {matmul / 1e12:,.3f} TFLOP/s")
    report = {"card": card, "torch": torch.__version__, "copy": copy, "matmul": matmul, "operations": {}}
    for what, (calls, amount) in ways(rows, words, width, args.device, dtype).items():
        found = measure(calls, args.repeats, args.device)
        report["operations"][what] = found
        print(f"\n{what:<24}{'ms':>10}{'quartiles':>22}{'of core':>9}{'of ruler':>10}{'gap':>9}{'peak MiB':>10}")
        for name, row in found.items():
            spread = f"{1e3 * row['low']:,.2f} .. {1e3 * row['high']:,.2f}"
            share = amount / row["seconds"] / (copy if what == "ce_hvp" else matmul)
            memory = "" if row["peak"] is None else f"{row['peak'] / 2**20:,.0f}"
            ratio = row["seconds"] / found["core"]["seconds"]
            line = f"{name:<24}{1e3 * row['seconds']:>10,.2f}{spread:>22}{ratio:>9.2f}{share:>10.2f}{row['gap']:>9.0e}"
            print(f"{line}{memory:>10}".rstrip(), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
