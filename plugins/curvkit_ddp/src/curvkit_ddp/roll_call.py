"""Who is to blame where a collective does not end: news of failures, and a roll call, through the group's store.

The store is a small key-value server that all ranks reach beside their collectives: it answers when these hang.
"""

from __future__ import annotations

import logging
import time

import torch.distributed as dist
from attrs import define

__all__ = ["RollCall"]

_log = logging.getLogger("curvkit")
_PATIENCE = 3.0  # seconds that the others have to answer, once one rank has given up waiting
_SHORTER = 2.0  # on ranks but the first, which may be the store's host: they are done before it goes
_PAUSE = 0.05


@define(eq=False)
class RollCall:
    """What ranks tell one another when something went wrong.

    Parameters
    ----------
    store : Store
        The group's.
    rank, size : int
        This process's number, and how many there are.
    """

    store: dist.Store
    rank: int
    size: int

    def announce(self, error: BaseException) -> None:
        """Say that this rank fails with `error`; the first to say so is the one that is named."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        try:
            if self.store.add("curvkit/failures", 1) == 1:
                self.store.set("curvkit/failure", f"rank {self.rank}: {text}")
        except RuntimeError as gone:  # the store's host ended before this rank: nobody is left to be told
            _log.debug("rank %d could not announce its failure: %s", self.rank, gone)

    def news(self) -> str:
        """The first failure that was announced, ``"rank 2: ValueError: ..."``; empty if there is none."""
        try:
            if self.store.check(["curvkit/failure"]):
                return self.store.get("curvkit/failure").decode()
        except RuntimeError as gone:
            return f"the rank or launcher that hosts the ranks' store has ended ({_first_line(gone)})"
        return ""

    def absent(self) -> str:
        """Which ranks do not answer within some seconds, in words: those that were killed, or that hang elsewhere."""
        try:
            self.store.set("curvkit/called", "1")
            self.store.set(f"curvkit/present/{self.rank}", "1")
            missing = self._unanswered(_SHORTER if self.rank else _PATIENCE)
        except RuntimeError as gone:
            return f"the rank or launcher that hosts the ranks' store has ended ({_first_line(gone)})"
        if not missing:
            return ""
        who = ", ".join(f"rank {r}" for r in missing)
        return f"{who} did not answer: killed, or busy elsewhere (its own output says more)"

    def called(self) -> bool:
        """Whether another rank calls the roll: it has given up waiting, and will not come."""
        try:
            return bool(self.store.check(["curvkit/called"]))
        except RuntimeError:
            return True

    def _unanswered(self, seconds: float) -> list[int]:
        missing = [r for r in range(self.size) if r != self.rank]
        end = time.monotonic() + seconds
        while missing and time.monotonic() < end:
            missing = [r for r in missing if not self.store.check([f"curvkit/present/{r}"])]
            time.sleep(_PAUSE)
        return missing


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:120]
