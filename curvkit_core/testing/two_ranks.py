"""One of two gloo ranks, started by the backend check: a GGN over data of which this rank holds its part.

``python -m curvkit_core.testing.two_ranks JSON FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from attrs import evolve

from curvkit_core.config import structure
from curvkit_core.host.references import resolve
from curvkit_core.operators import GGNOperator
from curvkit_core.testing.measures import directions
from curvkit_core.testing.tiny_problems import tiny_problem

__all__ = ["main"]


def main(told: dict[str, Any], folder: Path) -> None:
    """Make the product on this rank and write it down."""
    torch.set_num_threads(1)
    # they meet in a file: a port that was free when the ranks were started may be taken by now
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined] # documented, not in its stubs
    dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=2)
    try:
        factory = resolve(told["factory"], "the backend's factory")
        config = None if told["config"] is None else structure(resolve(told["config"], "its config"), told["options"])
        backend = factory() if config is None else factory(config)
        rank = dist.get_rank()
        assert (backend.world.rank, backend.world.size) == (rank, 2), (
            f"its world is {backend.world} on rank {rank} of 2"
        )
        tiny = tiny_problem("mlp")
        if told["prepare"] is not None:
            tiny = evolve(tiny, model=resolve(told["prepare"], "the case's prepare")(tiny.model))
        problem = tiny.problem((2, 3, 4)).equipped(backend=backend)  # three batches: the ranks' numbers differ
        op = GGNOperator(problem)
        V = directions(op.space, 2)
        whole = {"product": op.space.whole_rows(op.apply(V)), "random": op.space.whole_rows(V)}
        torch.save(whole, folder / f"rank-{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
