"""The ranks of a process group: sums over them, texts from all of them, and never a wait without an end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from attrs import define, field
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from curvkit_core.errors import RankError
from curvkit_ddp.launch import DEFAULT_TIMEOUT, transport_of
from curvkit_ddp.roll_call import RollCall

__all__ = ["MAX_RANKS", "Ranks", "group_and_patience"]

#: Sums over so many ranks of numbers of 12 bits are exact in float32.
MAX_RANKS = 4096
_LOOK = 0.25  # seconds of waiting after which the store is asked for news, again and again


@define(eq=False)
class Ranks:
    """A process group seen from one of its ranks.

    Parameters
    ----------
    group : ProcessGroup
    timeout : float
        Seconds that this rank waits for the others in one collective.
    """

    group: dist.ProcessGroup
    timeout: float = DEFAULT_TIMEOUT
    broken: str = ""
    interrupted: bool = False
    rank: int = field(init=False)
    size: int = field(init=False)
    _roll_call: RollCall = field(init=False)
    _blocking: bool = field(init=False)  # gloo's waiting takes a time limit and leaves the collective under way
    _objects: dist.ProcessGroup | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        if self.rank < 0:
            msg = f"this process (global rank {dist.get_rank()}) is no member of the process group. Use its own."
            raise ValueError(msg)
        if self.size > MAX_RANKS:
            msg = f"the process group has {self.size} ranks: expected at most {MAX_RANKS}, for exact counts."
            raise ValueError(msg)
        if not self.timeout > 0:
            msg = f"timeout={self.timeout!r}: expected a positive number of seconds."
            raise ValueError(msg)
        self._blocking = set(self._transports().values()) == {"gloo"}
        self._roll_call = RollCall(_store_of(self.group), self.rank, self.size)

    @property
    def device(self) -> torch.device:
        """Where small messages lie: on the CPU, or on this rank's GPU where only GPUs can talk."""
        return torch.device("cpu" if self.reaches("cpu") else torch.cuda.current_device())

    def reaches(self, device_type: str) -> bool:
        """Whether tensors on such a device can be sent."""
        return self.transport(device_type) != ""

    def transport(self, device_type: str) -> str:
        """What carries messages from such a device, ``"gloo"``; empty if nothing does."""
        return self._transports().get(device_type, "")

    def _transports(self) -> dict[str, str]:
        return dict(part.split(":") for part in transport_of(self.group).split(","))

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place. One collective."""
        self.finish(dist.all_reduce(tensor, group=self.group, async_op=True), "a sum")
        return tensor

    def agree(self, value: int) -> int:
        """The largest of the ranks' values; a Ctrl-C that came while this rank waited counts as 1."""
        value, self.interrupted = max(value, int(self.interrupted)), False
        return self.largest(value)

    def largest(self, value: int) -> int:
        """The largest of the ranks' values. One small collective."""
        found = torch.tensor([value], dtype=torch.int64, device=self.device)
        self.finish(dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group, async_op=True), "an agreement")
        return int(found)

    def texts(self, text: str) -> list[str]:
        """Every rank's text, in their order. Two small collectives; nothing is pickled."""
        own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        length = self.largest(len(own))
        padded = torch.zeros(length, dtype=torch.uint8)
        padded[: len(own)] = own
        padded = padded.to(self.device)
        found = [torch.empty_like(padded) for _ in range(self.size)]
        self.finish(dist.all_gather(found, padded, group=self.group, async_op=True), "an exchange of texts")
        return [bytes(t.tolist()).rstrip(b"\0").decode() for t in found]

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raise on every rank where the facts differ.

        Raises
        ------
        RankError
            Naming each fact that differs, and who has which value.
        """
        everyone = [json.loads(text) for text in self.texts(json.dumps(dict(facts)))]
        lines = [line for name in facts if (line := _difference(name, [each.get(name) for each in everyone]))]
        if lines:
            msg = f"the ranks were not started alike: {'; '.join(lines)}. Give every rank the same."
            raise RankError(msg)

    def finish(self, work: Any, what: str) -> None:
        """Wait for a collective: until it is done, a rank has failed, or the time is up.

        Raises
        ------
        RankError
            Naming the rank that failed or did not come, if one of these can be told.
        """
        self.check()
        begun = time.monotonic()
        while True:
            try:
                self._wait(work, what, begun)
                break
            except KeyboardInterrupt as error:
                # this rank's part is under way: leaving now would match the others' next collective with it
                if self.interrupted:
                    self.announce(error)
                    raise
                self.interrupted = True
        try:
            work.wait()
        except RuntimeError as error:
            self._broken_off(what, begun, error)

    def conferring(self, call: Callable[[dist.ProcessGroup], object], what: str) -> None:
        """Do what sends messages of its own, as torch.distributed.checkpoint does, in a group with this one's patience.

        Raises
        ------
        Exception
            On a rank where its own part of it failed, that error.
        RankError
            On the others, naming that rank; and where one does not come.
        """
        self.check()
        begun = time.monotonic()
        outcome: list[BaseException | None] = []

        def work() -> None:
            try:
                call(self._for_objects())
                outcome.append(None)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                outcome.append(error)

        # its messages cannot be waited for with an eye on the store: another thread waits for them
        thread = threading.Thread(target=work, daemon=True, name="curvkit-conferring")
        thread.start()
        while thread.is_alive():
            try:
                thread.join(_LOOK)
                if thread.is_alive():
                    self._look(what, begun)
            except KeyboardInterrupt:  # as in `finish`: leaving now would leave the others waiting
                self.interrupted = True
        self._settle(outcome[0], what, begun)

    def _for_objects(self) -> dist.ProcessGroup:
        """The same ranks, on their CPUs, where objects are."""
        if self._objects is None:
            members, patience = dist.get_process_group_ranks(self.group), timedelta(seconds=self.timeout)
            self._objects = dist.new_group(members, patience, backend="gloo", use_local_synchronization=True)
        return self._objects

    def _settle(self, error: BaseException | None, what: str, begun: float) -> None:
        if isinstance(error, RuntimeError):
            self._broken_off(what, begun, error)
        if isinstance(error, CheckpointException):  # every rank has heard of it, and is in step
            own = error.failures.get(self.rank)
            if own is not None:
                raise own[0] from None
            who = "; ".join(f"rank {r}: {type(e).__name__}: {e}" for r, (e, _) in sorted(error.failures.items()))
            msg = f"rank {self.rank} stopped, since {what} failed on {who}"
            raise RankError(msg) from None
        if error is not None:
            raise error

    def _broken_off(self, what: str, begun: float, error: RuntimeError) -> None:
        # the transport keeps the same time, and may be the first to say that it is up
        late = time.monotonic() - begun >= 0.95 * self.timeout
        outcome = f"did not end within timeout={self.timeout:g} seconds" if late else "failed"
        who = self._roll_call.news() or self._roll_call.absent() or f"{error}".partition("\n")[0]
        self.fail(f"{what} {outcome}: {who}", error)

    def _wait(self, work: Any, what: str, begun: float) -> None:
        looked = begun
        while not self._completed(work):
            now = time.monotonic()
            if now - looked > _LOOK:
                looked = now
                self._look(what, begun)

    def _look(self, what: str, begun: float) -> None:
        """Leave a wait that has no end."""
        if news := self._roll_call.news():
            self.fail(f"stopped waiting for {what}, since another rank failed: {news}")
        if time.monotonic() - begun > self.timeout:
            who = self._roll_call.absent() or "every rank answers, but they wait in different places"
            self.fail(f"{what} did not end within timeout={self.timeout:g} seconds: {who}")
        if self._roll_call.called():
            who = self._roll_call.absent() or "every rank answers, but one of them has stopped waiting"
            self.fail(f"{what} failed: {who}")

    def _completed(self, work: Any) -> bool:
        """Whether it is done, after a moment of waiting for it."""
        if not self._blocking:
            time.sleep(2e-5)
        elif not work.is_completed():
            with suppress(RuntimeError):  # of time, where it is not done; what else went wrong is told in the end
                work.wait(timedelta(seconds=_LOOK))
        return bool(work.is_completed())

    def fail(self, seen: str, cause: BaseException | None = None) -> None:
        """Raise, and refuse further use: collectives would be matched wrongly from here on."""
        self.broken = seen
        msg = f"rank {self.rank} of {self.size}: {seen}"
        raise RankError(msg) from cause

    def check(self) -> None:
        """Refuse to go on with a group whose ranks are out of step."""
        if self.broken:
            msg = (
                f"this process group is out of step, since on rank {self.rank} earlier {self.broken}. "
                "Start the ranks anew, or make a new process group and a new backend."
            )
            raise RankError(msg)

    def announce(self, error: BaseException) -> None:
        """Tell the ranks that wait in a collective that this one will not come, and never will."""
        self._roll_call.announce(error)
        self.broken = f"{type(error).__name__}: {error}"


def group_and_patience(ranks: Ranks | None) -> tuple[dist.ProcessGroup, float] | None:
    """What makes two backends' ranks the same: the group itself, and how long they wait in it."""
    return None if ranks is None else (ranks.group, ranks.timeout)


def _store_of(group: dist.ProcessGroup) -> dist.Store:
    if hasattr(group, "get_group_store"):
        return group.get_group_store()
    return dist.distributed_c10d._get_process_group_store(group)  # torch before 2.8


def _difference(name: str, values: list[str | None]) -> str:
    """``"plugins: rank 0, 1 have a, rank 2 has b"``; empty where all are alike."""
    by_value: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        by_value.setdefault(str(value), []).append(rank)
    if len(by_value) == 1:
        return ""
    parts = []
    for value, ranks in by_value.items():
        numbers = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
        parts.append(f"rank {numbers} {'has' if len(ranks) == 1 else 'have'} {value}")
    return f"{name}: {', '.join(parts)}"
