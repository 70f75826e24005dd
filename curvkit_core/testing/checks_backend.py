"""The laws of backends: alone it is the identity, and two ranks have one process's operator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvkit_core.backends import Backend, SingleBackend
from curvkit_core.config import plain
from curvkit_core.host.availability import availability
from curvkit_core.operators import GGNOperator
from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.left_as_it_was import differences, snapshot
from curvkit_core.testing.measures import directions, gap, rounding
from curvkit_core.testing.subject import Subject
from curvkit_core.testing.tiny_problems import tiny_problem
from curvkit_core.testing.variants import retold

__all__ = ["CHECKS"]

_TIMEOUT = 120.0  # seconds for two processes that import torch and make three products


def _backend(subject: Subject) -> Backend:
    backend = subject.build()
    if not isinstance(backend, Backend):
        msg = f"the factory gave a {type(backend).__name__} that lacks one of world, space, reduce, shard, context"
        raise AssertionError(msg)
    return backend


@check("backend")
def world(subject: Subject, record: Record) -> None:
    """Started as one process it is rank 0 of 1; it is frozen, equal to another of its configuration, and hashable."""
    backend = _backend(subject)
    record.equal("the rank", backend.world.rank, 0)
    record.equal("the size", backend.world.size, 1)
    record.true(backend == subject.build(), "two of one configuration are not equal")
    hash(backend)
    try:
        backend.world = None  # type: ignore[misc,assignment]
    except (AttributeError, TypeError):
        return
    record.true(False, "it can be written to: a backend is a frozen object")


@check("backend")
def alone_is_the_identity(subject: Subject, record: Record) -> None:
    """Alone, sums come back as they went in, data is dealt out whole, and the space's numbers are one process's."""
    backend, single = _backend(subject), SingleBackend()
    sums = (torch.arange(5.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64))
    reduced = backend.reduce(tuple(t.clone() for t in sums))
    record.equal("tensors reduced", len(reduced), len(sums))
    for before, after in zip(sums, reduced, strict=True):
        record.at_most("the gap of a reduced sum", gap(after, before), 0.0)
    rows = [torch.full((2,), float(i)) for i in range(5)]
    dealt = backend.shard(rows)
    for number in (1, 2):
        found = list(dealt)
        record.equal(f"batches of pass {number}", len(found), len(rows))
        record.true(all(torch.equal(a, b) for a, b in zip(found, rows, strict=True)), "batches were changed")
    parameters = tiny_problem("mlp").problem().parameters
    one, other = single.space(parameters), backend.space(parameters)
    record.equal("the size n", other.n, one.n)
    V = directions(one, 4)
    record.true(torch.equal(directions(other, 4), V), "random vectors are not those of one process")
    record.at_most("the gap of gram", gap(other.gram(V, V), one.gram(V, V)), 1e-12)
    Q, R = other.orthonormalize(V)
    record.at_most("Q Q^T less I", float((other.gram(Q, Q) - torch.eye(4, dtype=torch.float64)).abs().max()), 1e-12)
    record.at_most("the gap of R^T Q and A", gap(other.combine(R.mT, Q), V), 1e-12)


@check("backend")
def product(subject: Subject, record: Record) -> None:
    """An operator over it multiplies as over one process, and the model is as it was, also after an exception."""
    plain_op = GGNOperator(tiny_problem("mlp").problem((4, 5)))
    backend = _backend(subject)
    tiny = tiny_problem("mlp")
    model = subject.prepared(tiny.model)
    op = GGNOperator(retold(tiny.problem((4, 5)), model=model, backend=backend))
    V = directions(plain_op.space, 3)
    before = snapshot(model, tiny.batches())
    record.at_most("the relative gap", gap(op.apply(V), plain_op.apply(V)), rounding(op.dtype))
    try:
        with backend.context(model):
            raise _BoomError
    except _BoomError:
        pass
    moved = differences(before, snapshot(model, tiny.batches()))
    record.true(not moved, f"not as it was: {', '.join(moved)}")


class _BoomError(Exception):
    """Raised inside the context, to see what it leaves behind."""


@check("backend", executes=False, concerns=lambda spec: bool(spec.tags & {"replicated", "sharded"}))
def two_ranks(subject: Subject, record: Record) -> None:
    """Two gloo processes that hold different numbers of batches have one process's product, and the same vectors.

    Its probe is not asked in this process, which is one; the two ask for nothing but its requirements. Where vectors
    lie in parts, rank 0 gathers them.
    """
    here = availability(subject.spec)
    if here.ok is False:
        msg = f"it cannot run here: {here.reason}"
        raise SkippedError(msg)
    if subject.tagged("sharded") and subject.case.prepare is None:
        msg = (
            "a sharded backend takes models that are sharded already: hand in "
            f"Case(component={subject.name!r}, prepare=...)"
        )
        raise SkippedError(msg)
    if not isinstance(subject.spec.factory, str):
        msg = "its factory is no string, so that no other process can import it"
        raise SkippedError(msg)
    if not torch.distributed.is_available():
        msg = "this torch has no torch.distributed"
        raise SkippedError(msg)
    config = subject.spec.config
    told = {
        "factory": subject.spec.factory,
        "config": config if isinstance(config, str) or config is None else _place(config),
        "options": plain(dict(subject.case.options)),
        "prepare": None if subject.case.prepare is None else _place(subject.case.prepare),
    }
    tiny = tiny_problem("mlp")
    expected = GGNOperator(tiny.problem((2, 3, 4)))
    V = directions(expected.space, 2)
    for rank, (found, random) in enumerate(_ranks(told)):
        if rank and subject.tagged("sharded"):
            continue  # rank 0 has them whole
        record.true(torch.equal(random, V), f"rank {rank}: the random vectors are not those of one process")
        record.at_most("the relative gap of the product", gap(found, expected.apply(V)), rounding(expected.dtype))


def _place(thing: Any) -> str:
    """Where another process imports it from.

    Raises
    ------
    SkippedError
        If no other process can.
    """
    module, name = getattr(thing, "__module__", "__main__"), getattr(thing, "__qualname__", "<nameless>")
    place = f"{module}:{name}"
    if "<" in name or module == "__main__":
        msg = f"{place} is no module's own, so that no other process can import it"
        raise SkippedError(msg)
    return place


def _ranks(told: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Run `two_ranks.py` in two processes; each rank's products and vectors, gathered whole."""
    with tempfile.TemporaryDirectory() as made, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        children, logs = [], [Path(made) / f"rank-{rank}.log" for rank in range(2)]
        for rank, log in enumerate(logs):
            environ = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
            path = os.pathsep.join(entry for entry in sys.path if entry)
            command = [sys.executable, "-m", "curvkit_core.testing.two_ranks", json.dumps(told), made]
            with log.open("w") as out:
                child = subprocess.Popen(
                    command,
                    env=environ | {"PYTHONPATH": path},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
            children.append(child)
        hanging = _waited_for(children)
        texts = [
            (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1] for log in logs
        ]
        for rank, (child, text) in enumerate(zip(children, texts, strict=True)):
            if child.returncode and rank not in hanging:  # the other one may have waited for it
                msg = f"rank {rank} ended with code {child.returncode}: {text}"
                raise AssertionError(msg)
        if hanging:
            msg = f"ranks {hanging} of two did not come to an end in {_TIMEOUT:g} s; the last they said: {texts}"
            raise AssertionError(msg)
        stored = [torch.load(Path(made) / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    return [(item["product"], item["random"]) for item in stored]


def _waited_for(children: list[subprocess.Popen[bytes]]) -> list[int]:
    """The numbers of those that were killed, since their time was up."""
    hanging, end = [], time.monotonic() + _TIMEOUT
    try:
        for number, child in enumerate(children):
            try:
                child.wait(timeout=max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                hanging.append(number)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    return hanging


CHECKS = (world, alone_is_the_identity, product, two_ranks)
