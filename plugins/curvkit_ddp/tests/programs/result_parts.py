"""Results on shards, by run file and in Python: what each rank holds, gathers, writes and reads again.

Steps: ``run`` writes and reads on these ranks, ``resumed`` writes alone, ``read`` reads what other ranks have written,
``dying`` ends rank 1 in the middle of the second job's vectors, ``killed`` ends rank 0 when all jobs are kept and the
run's folder is to be written, ``full`` lets no file of rank 1 grow.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from recorded import Recorded, message_of
from torch import Tensor

from curvkit_core import GGNOperator, Problem, eigsh, load_result, save_result
from curvkit_core.cli.main import main
from curvkit_core.results import KrylovResult, parted_rows
from curvkit_core.results.combined import CombinedResult
from curvkit_core.results.parted_rows import PartedRows, rows_of
from curvkit_core.runs import load_run, ranks, slices
from curvkit_ddp import ReplicatedBackend, ShardedBackend, row_storage
from curvkit_ddp.sharded_space import ShardedSpace


class Watch:
    """How often a vector is whole on this rank, and its part of those that are written."""

    def __init__(self) -> None:
        self.whole = {"gathered": 0, "sent": 0, "put together": 0}
        self.held: dict[str, Tensor] = {}
        gather, send, read = ShardedSpace.whole_rows, ranks.own_rows, parted_rows.read_parts
        written = PartedRows.written.__func__

        def counted(name: str, function: Any) -> Any:
            def call(*arguments: Any) -> Any:
                self.whole[name] += 1
                return function(*arguments)

            return call

        def held(cls: type, folder: Path, rows: dict[str, Tensor], space: ShardedSpace) -> Any:
            self.held |= {f"{folder.parent.name}/{name}": own.clone() for name, own in rows.items()}
            return written(cls, folder, rows, space)

        ShardedSpace.whole_rows = counted("gathered", gather)
        slices.own_rows = counted("sent", send)
        parted_rows.read_parts = counted("put together", read)
        PartedRows.written = classmethod(held)


def rank(folder: Path, step: str, file: str, *arguments: str) -> None:
    """Do the step, and end with the run's exit code."""
    torch.set_num_threads(1)
    me = int(os.environ["RANK"])
    command = ["run", file, "--no-plots", *arguments]
    if step == "killed" and me == 0:
        from curvkit_core.runs import record

        record.write_run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    if step == "dying" and me == 1:
        dying_in("job-0-1")
    if step == "full" and me == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    code = 0
    if step in ("dying", "killed", "full"):
        code = main(command)
    else:
        found = Recorded()
        watch = Watch()
        if step in ("run", "resumed"):
            code = main(command)
            found.facts["whole in the run"] = sum(watch.whole.values())
        if step in ("run", "read"):
            check(found, folder, Path(arguments[1]), watch, step)
        found.save(folder, me)
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def dying_in(job: str) -> None:
    """End this process in its file of a job's vectors, half of it written."""
    original = row_storage.write_part

    def write(path: Path, *rest: Any) -> dict[str, Any]:
        facts = original(path, *rest)
        if path.parent.parent.name == job:
            path.write_bytes(path.read_bytes()[: facts["bytes"] // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return facts

    row_storage.write_part = write


def check(found: Recorded, folder: Path, out: Path, watch: Watch, step: str) -> None:
    """What is read is what is held: the run's folder, and a result's of its own."""
    sys.path.insert(0, str(folder))
    problem: Problem = (
        importlib.import_module("problem_of_parts").sharded().equipped(backend=ShardedBackend(timeout=60.0))
    )
    space = problem.space
    assert isinstance(space, ShardedSpace)
    found.facts["n_local"] = space.n_local
    if step == "run":
        in_python(found, folder, problem)
    before = sum(watch.whole.values())
    own, nested = load_run(out, space=space), load_result(folder / "api", types=[CombinedResult], space=space)
    found.facts["whole in reading"] = sum(watch.whole.values()) - before
    whole, nested_whole = load_run(out), load_result(folder / "api", types=[CombinedResult])
    pairs = {"eigenvectors": 0, "basis": 1, "residual": 1}
    for name, number in pairs.items():
        part, all_of_it = (getattr(r[number].result, name) for r in (own, whole))
        held = watch.held.get(f"job-0-{number}/{name}", part)
        found.facts[name] = torch.equal(part, held) and torch.equal(space.own_rows(all_of_it), part)
        found.facts[f"{name} control"] = torch.equal(space.own_rows(all_of_it.flip(-1)), part) and part.numel() > 0
        found.tensors[name] = part
    expected = nested_of(problem).results[1].bases
    for i in (0, 1):
        part, all_of_it = (r.results[1].bases[i] for r in (nested, nested_whole))
        found.facts[f"bases.{i}"] = torch.equal(part, expected[i]) and torch.equal(space.own_rows(all_of_it), part)
    for spoilt in ("cut", "missing"):
        if (folder / spoilt).is_dir():
            found.facts[spoilt] = message_of(lambda spoilt=spoilt: load_run(folder / spoilt, space=space))
    if step == "read":
        replicated(found, folder, nested_whole)
    absent = folder / "absent" if dist.get_rank() == 1 else folder / "api"
    found.facts["one rank sees another folder"] = message_of(lambda: load_result(absent, space=space))
    found.facts["in step"] = space.agree(7)


def replicated(found: Recorded, folder: Path, whole: CombinedResult) -> None:
    """Replicas read whole vectors of what shards have written, and rank 0 writes for all."""
    problem = importlib.import_module("problem_of_parts").whole().equipped(backend=ReplicatedBackend(timeout=60.0))
    space = problem.space
    of_shards = load_result(folder / "api", types=[CombinedResult], space=space).results[0].eigenvectors
    found.facts["replica reads parts"] = torch.equal(of_shards, whole.results[0].eigenvectors)
    result = nested_of(problem)
    save_result(result, folder / "replicated", space=space)
    again = load_result(folder / "replicated", types=[CombinedResult], space=space)
    found.facts["replica reads whole"] = torch.equal(again.results[1].bases[0], result.results[1].bases[0])
    found.facts["replicated"] = sorted(p.name for p in (folder / "replicated").iterdir())
    found.facts["taken by rank 0"] = message_of(lambda: save_result(result, folder / "replicated", space=space))


def nested_of(problem: Problem) -> CombinedResult:
    """Eigenpairs, and bases in a tuple, the same on any number of ranks."""
    space = problem.space
    bases = (space.random("gaussian", 5, 0, 3), space.random("gaussian", 5, 3, 1))
    krylov = KrylovResult(projections=(), bases=bases, damping=0.0, single=False, num_matvecs=4)
    return CombinedResult(results=(None, krylov), num_matvecs=4)


def in_python(found: Recorded, folder: Path, problem: Problem) -> None:
    """`save_result` by all ranks; where one cannot, none of the folder is there, and all are in step."""
    space = problem.space
    eigen = eigsh(GGNOperator(problem), k=2, ncv=8, seed=0)
    result = CombinedResult(results=(eigen, nested_of(problem).results[1]), num_matvecs=0)
    found.facts["named"] = sorted(rows_of(result, space))
    save_result(result, folder / "api", space=space)
    found.facts["taken"] = message_of(lambda: save_result(result, folder / "api", space=space))
    original = row_storage.write_part

    def full(*_: object) -> dict[str, object]:
        msg = "No space left on device"
        raise OSError(28, msg)

    if dist.get_rank() == 1:
        row_storage.write_part = full
    found.facts["full"] = message_of(lambda: save_result(result, folder / "lost", space=space))
    row_storage.write_part = original
    space.agree(0)  # rank 0 clears away what the others had written
    found.facts["left over"] = sorted(p.name for p in folder.iterdir() if "lost" in p.name)
    gathered = ranks.whole_result(result, GGNOperator(problem))  # control: this does gather, and is counted
    found.facts["gathered control"] = list(gathered.results[0].eigenvectors.shape)
