"""Vectors on disk: a sharded space writes its rows, and one of another number of ranks reads them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from problems import BLOCKS, make
from recorded import Recorded, message_of
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from curvkit_core import HessianOperator, Problem, load_result, save_result
from curvkit_core.results import KrylovResult
from curvkit_ddp import ShardedBackend, row_storage, shard
from curvkit_ddp.sharded_space import ShardedSpace

NAMES = ("vectors", "vector", "none")


def rank(folder: Path, step: str) -> None:
    """``write`` makes the folders ``parts`` and ``replicas``, on four ranks; ``read`` reads the first."""
    torch.set_num_threads(1)
    found = Recorded()
    problem = problem_on(None)
    if step == "write":
        write(found, problem.space, folder / "parts", "")
        fail(found, problem.space, folder, HessianOperator(problem))
        peaks(found, folder / "large")
        twofold = problem_on(init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
        write(found, twofold.space, folder / "replicas", "replicas/")
        read(found, twofold.space, folder, "replicas/")
    else:
        read(found, problem.space, folder, "")
    found.save(folder, problem.backend.world.rank)
    dist.destroy_process_group()


def problem_on(mesh: DeviceMesh | None) -> Problem:
    """With all data on rank 0."""
    backend = ShardedBackend(mesh, timeout=30.0)
    case = make("tied-mlp")
    shard(case.model, mesh, blocks=BLOCKS["tied-mlp"])
    return Problem(case.model, case.batches() if backend.world.rank == 0 else [], case.loss, backend=backend)


def rows_of(space: ShardedSpace) -> dict[str, torch.Tensor]:
    """Three vectors, one, and none: the same on one process and on any number of ranks."""
    return dict(
        zip(
            NAMES,
            (space.random("gaussian", 5, 0, 3), space.random("gaussian", 5, 3, 1)[0], space.zeros(0)),
            strict=True,
        )
    )


def write(found: Recorded, space: ShardedSpace, parts: Path, key: str) -> None:
    """Write three names; rank 0 keeps the facts."""
    if space.writes:
        parts.mkdir()
    space.agree(0)
    facts = space.write_rows(parts, rows_of(space))
    found.facts[f"{key}told"] = bool(facts)
    if space.writes:
        parts.with_suffix(".json").write_text(json.dumps(facts))


def fail(found: Recorded, space: ShardedSpace, folder: Path, H: HessianOperator) -> None:
    """Rank 1's disk is full: all hear it, and multiply together afterwards."""
    lost = folder / "lost"
    if space.writes:
        lost.mkdir()
    space.agree(0)
    original = row_storage.write_part

    def full(*_: object) -> dict[str, object]:
        msg = "No space left on device"
        raise OSError(28, msg)

    if space.everyone.rank == 1:
        row_storage.write_part = full
    found.facts["disk is full"] = message_of(lambda: space.write_rows(lost, rows_of(space)))
    row_storage.write_part = original
    found.facts["afterwards"] = message_of(lambda: H.apply(space.zeros(1)))


def peaks(found: Recorded, folder: Path) -> None:
    """Memory that a rank needs beside its part of 24 rows of a million numbers: to write them, and to gather them.

    Alone, as a result, and to read that again: its part, or all of it.
    """
    model = torch.nn.Linear(1024, 1024)
    shard(model)
    backend = ShardedBackend(timeout=30.0)
    space = Problem(model, [], torch.nn.MSELoss(), backend=backend).space
    assert isinstance(space, ShardedSpace)
    rows = space.random("gaussian", 0, 0, 24)
    if space.writes:
        folder.mkdir()
    space.agree(0)
    space.whole_rows(rows[:1])  # what the transport keeps
    result = KrylovResult(projections=(), bases=(rows,), damping=0.0, single=False, num_matvecs=0)
    for name, call in (
        ("parts", lambda: space.write_rows(folder, {"x": rows})),
        ("whole", lambda: space.whole_rows(rows)),
        ("result", lambda: save_result(result, folder / "result", space=space)),
        ("read", lambda: load_result(folder / "result", space=space)),
        ("read whole", lambda: load_result(folder / "result")),
    ):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _kilobytes("VmRSS")
        call()
        found.facts[f"peak/{name}"] = (_kilobytes("VmHWM") - before) * 1024 / rows.nbytes


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def read(found: Recorded, space: ShardedSpace, folder: Path, key: str) -> None:
    """Read what four ranks have written, whole or spoilt."""
    parts = folder / "parts"
    facts = json.loads(parts.with_suffix(".json").read_text())
    for name, expected in rows_of(space).items():
        got = space.read_rows(parts, name, facts)
        found.facts[f"{key}{name} bit-equal"] = got.shape == expected.shape and torch.equal(got, expected)
    got = space.read_rows(parts, "vectors", facts)
    found.facts[f"{key}control"] = torch.equal(got, space.random("gaussian", 5, 1, 3))
    if (folder / "spoilt").is_dir():
        found.facts["spoilt"] = message_of(lambda: space.read_rows(folder / "spoilt", "vectors", facts))
    found.facts[f"{key}unknown"] = message_of(lambda: space.read_rows(parts, "others", facts))
