"""Vectors over the data: which stretch of them belongs to which microbatch."""

from __future__ import annotations

from curvkit_core.problem.problem import Piece, Problem

__all__ = ["DataLayout"]


class DataLayout:
    """The microbatches' parts one after another in the data's order; what one pass has shown holds for the later ones.

    Parameters
    ----------
    problem : Problem
    what : str
        What the elements are, for errors: "outputs".
    """

    def __init__(self, problem: Problem, what: str) -> None:
        if problem.backend.world.size != 1:
            msg = (
                f"a vector over the {what} of {problem!r} is not made for {problem.backend.world.size} ranks, each "
                "with data of its own. Use one process."
            )
            raise ValueError(msg)
        self._what = what
        self._stops: list[int] = []
        self._keys: list[tuple[int, int]] = []

    @property
    def total(self) -> int:
        """Length of the vectors."""
        return self._stops[-1] if self._stops else 0

    def add(self, piece: Piece, length: int) -> None:
        """Say how long the next microbatch's part is."""
        self._keys.append((piece.number, piece.part))
        self._stops.append(self.total + length)

    def place(self, index: int, piece: Piece, length: int) -> slice:
        """The part of microbatch number `index` of this pass, which is to be as it was."""
        if index < len(self._stops) and self._keys[index] == (piece.number, piece.part):
            start = self._stops[index - 1] if index else 0
            if self._stops[index] - start == length:
                return slice(start, self._stops[index])
        known = self._stops[index] - (self._stops[index - 1] if index else 0) if index < len(self._stops) else 0
        msg = (
            f"batch {piece.number} has {length} {self._what} where it had {known} when the operator was built: a "
            "vector over the data needs the same batches in every pass. Do not shuffle, or pass list(loader)."
        )
        raise ValueError(msg)

    def check_complete(self, pieces: int) -> None:
        """After a pass: there were as many microbatches as before."""
        if pieces != len(self._stops):
            msg = (
                f"the data gave {pieces} microbatches where there were {len(self._stops)} when the operator was built: "
                "a vector over the data needs the same batches in every pass. Build a new operator."
            )
            raise ValueError(msg)
