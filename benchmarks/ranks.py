"""Seconds a Hessian product on 1, 2, 4 ... gloo ranks of this machine, the data the same; or what a cost model says.

    python benchmarks/ranks.py --ranks 1 2 4 --width 512 --blocks 6 --batches 8 --rows 128
    python benchmarks/ranks.py --model

Prints a row a backend and number of ranks: the median and quartiles of the wall time, the share of it that a rank
spends in collectives (waiting for the others included), the process's CPU time, the bytes it sends by the cost model of
docs/distributed.md, and the bytes of parameters and of one vector that it holds. One thread a rank; more ranks than
cores take turns. ``--model`` multiplies assumed speeds of GPUs and links, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from curvkit_core import HessianOperator, MSELoss, Problem
from curvkit_ddp import ReplicatedBackend, ShardedBackend, shard
from curvkit_ddp.ranks import Ranks


def network(width: int, blocks: int) -> nn.Module:
    """Equal blocks, so that a block's gather is 1/blocks of the model."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(blocks)))


def timed(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a rank: the times of its products."""
    backend = (ShardedBackend if kind == "sharded" else ReplicatedBackend)(timeout=300.0)
    model = network(options.width, options.blocks)
    if kind == "sharded":
        shard(model)
    torch.manual_seed(1)
    rows = options.rows
    batches = [(torch.randn(rows, options.width), torch.randn(rows, options.width)) for _ in range(options.batches)]
    own = list(backend.shard(batches))
    problem = Problem(model, own, MSELoss(), backend=backend, preflight="off")
    H = HessianOperator(problem, strategy="reverse", cache="rebuild")
    V = problem.space.random("gaussian", 0, 0, 1)
    waited = [0.0]
    finish = Ranks.finish

    def clocked(self: Ranks, work: Any, what: str) -> None:
        begun = time.perf_counter()
        finish(self, work, what)
        waited[0] += time.perf_counter() - begun

    Ranks.finish = clocked  # type: ignore[method-assign]
    H.apply(V)
    walls, cpus, shares = [], [], []
    for _ in range(options.repeats):
        waited[0] = 0.0
        begun, cpu = time.perf_counter(), time.process_time()
        H.apply(V)
        walls.append(time.perf_counter() - begun)
        cpus.append(time.process_time() - cpu)
        shares.append(waited[0] / walls[-1])
    held = sum(e.value.untyped_storage().nbytes() for e in problem.parameters)
    n, size = problem.space.n, backend.world.size
    sent = 2 * (size - 1) / size * 4 * n
    if isinstance(backend, ShardedBackend):
        backend.traffic.reset()
        H.apply(V)
        sent = 4 * backend.traffic.elements * (size - 1) / size
    return {"wall": walls, "cpu": cpus, "share": shares, "held": held, "vector": V.nbytes, "sent": sent, "n": n}


def run_ranks(kind: str, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fork the ranks; each writes what it measured."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with TemporaryDirectory() as folder:
        children = []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                torch.set_num_threads(1)
                try:
                    Path(folder, f"{rank}.json").write_text(json.dumps(timed(kind, options)))
                    code = 0
                except BaseException:  # noqa: BLE001 - shown, and the parent stops
                    import traceback

                    traceback.print_exc()
                    code = 1
                sys.stderr.flush()
                os._exit(code)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            sys.exit(1)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


#: Assumptions: floating-point operations a second that a GPU keeps up, bytes a second that it sends within a node of
#: eight and between nodes, seconds a collective takes beside its bytes.
FLOPS, WITHIN, BETWEEN, LATENCY = 4e14, 4.5e11, 5e10, 3e-5


def modelled(size: int, n: float, tokens: float, microbatch: float, blocks: int) -> tuple[float, float, float]:
    """Seconds of a Hessian product over `tokens`: arithmetic alone, replicated, and sharded; bf16 weights."""
    share = tokens / size
    arithmetic = 9 * 2 * n * share / FLOPS  # nine forwards of 2 n operations a token
    link = WITHIN if size <= 8 else BETWEEN
    ring = (size - 1) / size
    replicated = arithmetic + (2 * ring * 4 * n / link + 2 * LATENCY if size > 1 else 0.0)
    steps = -(-share // microbatch)
    sent = 7 * ring * 2 * n / link + 7 * blocks * LATENCY
    sharded = arithmetic + (steps * sent if size > 1 else 0.0)
    return arithmetic, replicated, sharded


def model_table() -> None:
    """7 billion parameters, 2^20 tokens, microbatches of 8,192 tokens, 32 blocks."""
    print("| GPUs | arithmetic, s | replicated, s | sharded, s | a rank's weights and one vector, sharded, GB |")
    print("|---|---|---|---|---|")
    for size in (1, 2, 8, 64, 128, 1024):
        arithmetic, replicated, sharded = modelled(size, 7e9, 2.0**20, 8192, 32)
        held = 7e9 * (2 + 4) / size / 1e9
        print(f"| {size:,} | {arithmetic:.2f} | {replicated:.2f} | {sharded:.2f} | {held:.2f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 512), ("blocks", 6), ("batches", 8), ("rows", 128), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=["replicated", "sharded"])
    parser.add_argument("--model", action="store_true", help="print the cost model's table instead")
    options = parser.parse_args()
    if options.model:
        model_table()
        return
    columns = ("backend", "ranks", "s a product (quartiles)", "in collectives", "CPU s a rank", "sent, MB")
    print(f"| {' | '.join(columns)} | parameters, MB | vector, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in options.kinds:
        for size in options.ranks:
            found = run_ranks(kind, size, options)
            walls = sorted(max(times) for times in zip(*(f["wall"] for f in found), strict=True))
            low, middle, high = statistics.quantiles(walls, n=4) if len(walls) > 1 else [walls[0]] * 3
            share = statistics.median(s for f in found for s in f["share"])
            cpu = statistics.median(c for f in found for c in f["cpu"])
            sizes = [max(f[name] for f in found) / 1e6 for name in ("sent", "held", "vector")]
            print(
                f"| {kind} | {size} | {middle:.3f} ({low:.3f}-{high:.3f}) | {share:.0%} | {cpu:.3f} | "
                + " | ".join(f"{s:.1f}" for s in sizes)
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
