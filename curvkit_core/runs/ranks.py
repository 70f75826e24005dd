"""A run on several ranks: rank 0 plans, decides, writes and prints, and the others multiply with it.

Rank 0 is the run that a single process would be. Before it does what all ranks have to do, it says so in a line of JSON
(:func:`lead`), and the others (:func:`follow`) do the same. Names, plugins and the run file are compared at the start;
seeds that the file leaves open are rank 0's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvkit_core.errors import CurvkitError, RankError

if TYPE_CHECKING:
    from torch import Tensor

    from curvkit_core.backends import Backend, ComparesRanks
    from curvkit_core.host.registry import Registry
    from curvkit_core.operators import CurvatureOperator
    from curvkit_core.runs.plan import Plan
    from curvkit_core.runs.preparation import Job, Prepared

__all__ = ["follow", "follower_rank", "lead", "one_plan", "own_rows", "whole_result"]

FAILED = 1
APART = "apart"  # in a job's order: whether the ranks write the vectors of its result themselves


def follower_rank() -> int:
    """The number that a launcher such as torchrun has given to this process; 0 for the first one, and without one."""
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() else 0


def one_plan(plan: Plan, registry: Registry) -> tuple[Plan, Backend]:
    """Build the backend, and give the plan that all of its ranks have.

    Parameters
    ----------
    plan : Plan
        This rank's.
    registry : Registry
        Where it was made.

    Returns
    -------
    plan : Plan
        With rank 0's seeds.
    backend : Backend
        For :func:`prepare`.

    Raises
    ------
    ConfigError
        If the backend cannot be built.
    CurvkitError
        On every rank, if the ranks' run files, plugins or versions differ: who has which.
    """
    from curvkit_core.backends import ComparesRanks
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.preparation import built_backend
    from curvkit_core.version import __version__

    backend = built_backend(plan, registry)
    if backend.world.size == 1 or not isinstance(backend, ComparesRanks):
        return plan, backend
    tables = json.dumps(plan.tables, sort_keys=True, default=str)
    backend.compare(
        {
            "plugins": f"{', '.join(_plugins(registry))} (registry {plan.fingerprint})",
            "run file": f"{plan.source} (contents {hashlib.sha256(tables.encode()).hexdigest()[:12]})",
            "curvkit-core": __version__,
        }
    )
    seeds = json.loads(backend.share(json.dumps(dict(plan.seeds))))
    if seeds != dict(plan.seeds):
        plan = make_plan(plan.tables, registry, source=plan.source, seeds=seeds)
    return plan, backend


def lead(prepared: Prepared, **order: Any) -> None:
    """Tell the other ranks what is done next; nothing where there are none."""
    from curvkit_core.backends import ComparesRanks

    backend = prepared.problem.backend
    if backend.world.size > 1 and isinstance(backend, ComparesRanks):
        backend.share(json.dumps(order))


def whole_result(result: Any, op: CurvatureOperator) -> Any:
    """Put the vectors of a result together, where they lie in parts; all ranks call it, and rank 0 has them whole."""
    from curvkit_core.backends import HoldsShards
    from curvkit_core.results.parted_rows import rows_of, with_tensors

    problem, space = op.problem, op.space
    if problem is None or not isinstance(problem.backend, HoldsShards):
        return result
    whole = {name: space.whole_rows(own) for name, own in rows_of(result, space).items()}
    return with_tensors(result, whole.get) if space.writes else result


def own_rows(op: CurvatureOperator, whole: Tensor | None, count: int) -> Tensor:
    """This rank's part of the first `count` of whole vectors that rank 0 has and others not; all ranks call it.

    One vector is whole on every rank at a time.
    """
    import torch

    problem, space = op.problem, op.space
    assert problem is not None
    if problem.backend.world.size == 1 and whole is not None:
        return whole[:count]
    found = []
    for number in range(count):
        row = torch.zeros(space.n, dtype=space.dtype, device=space.device)
        if whole is not None:
            row.copy_(whole[number])
        # rank 0's and the others' zeros: added over shards here, and over replicas by the backend
        row, _ = problem.backend.reduce((space.sum_over_shards(row), torch.zeros((), dtype=torch.float64)))
        found.append(space.own_rows(row))
    return torch.stack(found)


def follow(
    tables: Mapping[str, Any],
    registry: Registry,
    *,
    source: str,
    say: Callable[[str], None],
    trust_remote_code: bool = False,
) -> int:
    """Be one of the other ranks, to the end of the run.

    Parameters
    ----------
    tables : mapping
        The run file's.
    registry : Registry
        This rank's.
    source : str
        The run file's name.
    say : callable
        Told what a user has to know of this rank.
    trust_remote_code : bool
        As on rank 0.

    Returns
    -------
    int
        Exit code: 0, or 1 where another rank failed, which says so itself.

    Raises
    ------
    ConfigError
        If this rank fails.
    """
    from curvkit_core.backends import ComparesRanks
    from curvkit_core.problem.remote_code import allow_remote_code
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.preparation import prepare
    from curvkit_core.runs.run_state import identities
    from curvkit_core.runs.slices import slice_with

    rank = follower_rank()
    plan, backend = one_plan(make_plan(tables, registry, source=source), registry)
    if backend.world.size == 1:
        say(f"rank {rank} has nothing to do: the backend is {plan.backend.name}")
        return 0
    with allow_remote_code(trust_remote_code):
        prepared = prepare(plan, registry, backend=backend)
    assert isinstance(backend, ComparesRanks), "a backend of several ranks that cannot tell what is done next"
    known = identities(prepared)  # its hash of the data is over all ranks
    try:
        while True:
            order = json.loads(backend.share(""))
            if "job" in order:
                _drive_with(prepared.jobs[order["job"]], known, backend)
            elif "slices" in order:
                slice_with(prepared.jobs[order["slices"]], order)
            else:
                return 0
    except RankError as error:  # another rank's failure, which that one may have had no time to tell
        say(f"{error}")
        return FAILED
    except CurvkitError:
        say(f"rank {rank} failed:")
        raise


def _drive_with(job: Job, known: list[Any], backend: ComparesRanks) -> None:
    """Do what rank 0 does with a job, but for files and progress."""
    from curvkit_core.algorithms import run as drive
    from curvkit_core.runs.rows_apart import put_apart_with
    from curvkit_core.runs.run_state import can_be_saved

    can_be_saved(job, known)  # draws start vectors, of which sharded ones are drawn together
    order = json.loads(backend.share(""))
    folder, apart = order.pop("checkpoint"), order.pop(APART)
    found = drive(
        job.algorithm.component.config,
        job.op,
        checkpoint=None if folder is None else Path(folder),
        **order,
    )
    if apart:
        put_apart_with(found, job.op, backend)
    else:
        whole_result(found, job.op)


def _plugins(registry: Registry) -> list[str]:
    return [f"{p.dist} {p.version}" for p in registry.plugins if p.status == "ok"]
