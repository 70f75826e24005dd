"""One algorithm after another, the second fed with what the first has found.

For instance the leading eigenvectors that a density's probes shall be free of, or a sketch that preconditions a solve.
The whole is an algorithm itself, with one budget, one progress and one checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import define, frozen
from torch import Tensor

from curvkit_core.algorithms.protocol import Algorithm, Finishes, HasRoom, Progress, ReportsProgress
from curvkit_core.backends import VectorSpace
from curvkit_core.results.combined import CombinedResult

__all__ = ["Chain"]


@define(kw_only=True)
class ChainState:
    """The state of the one that runs, and the result of the first once it has one."""

    running: Any
    first_result: Any = None
    num_matvecs: int = 0
    first_matvecs: int = 0


@frozen(kw_only=True)
class Chain:
    """`first`, and then `then`.

    Parameters
    ----------
    first, then : Algorithm
    carry : tuple of pairs of str
        ``(field of first's result, name of an input of then)`` each: ``(("eigenvectors", "start"),)``.
    """

    first: Algorithm
    then: Algorithm
    carry: tuple[tuple[str, str], ...] = ()

    @property
    def algorithms(self) -> tuple[Algorithm, Algorithm]:
        """Both, in the order of the results."""
        return (self.first, self.then)

    @property
    def needs_symmetric(self) -> bool:
        """Whether one of them does."""
        return any(getattr(a, "needs_symmetric", False) for a in self.algorithms)

    @property
    def accepts_stochastic(self) -> bool:
        """Whether both do."""
        return all(getattr(a, "accepts_stochastic", False) for a in self.algorithms)

    def init(self, space: VectorSpace, *, inputs: Mapping[str, Any] | None = None) -> ChainState:
        """Start the first, with `inputs`."""
        return self._handed_over(space, ChainState(running=self.first.init(space, **(inputs or {}))))

    def ask(self, state: ChainState, max_rows: int) -> Tensor | None:
        """As the one that runs."""
        return self._algorithm(state).ask(state.running, max_rows)

    def room(self, space: VectorSpace, state: ChainState, V: Tensor) -> Tensor | None:
        """As the one that runs."""
        algorithm = self._algorithm(state)
        return algorithm.room(space, state.running, V) if isinstance(algorithm, HasRoom) else None

    def tell(self, space: VectorSpace, state: ChainState, V: Tensor, AV: Tensor) -> ChainState:
        """As the one that runs; when the first is done, the second begins."""
        state.num_matvecs += len(V)
        state.running = self._algorithm(state).tell(space, state.running, V, AV)
        return self._handed_over(space, state)

    def finish(self, space: VectorSpace, state: ChainState) -> ChainState:
        """As the one that runs."""
        algorithm = self._algorithm(state)
        if isinstance(algorithm, Finishes):
            state.running = algorithm.finish(space, state.running)
        return state

    def result(self, space: VectorSpace, state: ChainState) -> CombinedResult:
        """Both results; the second's is None as long as it has not begun."""
        last = self._algorithm(state).result(space, state.running)
        results = (last, None) if state.first_result is None else (state.first_result, last)
        return CombinedResult(results=results, num_matvecs=state.num_matvecs)

    def progress(self, state: ChainState) -> Progress:
        """Of the one that runs; the end is known in the second."""
        algorithm = self._algorithm(state)
        if not isinstance(algorithm, ReportsProgress):
            return Progress(done=state.num_matvecs)
        told = algorithm.progress(state.running)
        total = None if told.total is None or state.first_result is None else state.first_matvecs + told.total
        return Progress(done=state.num_matvecs, total=total, note=told.note)

    def _algorithm(self, state: ChainState) -> Algorithm:
        return self.first if state.first_result is None else self.then

    def _handed_over(self, space: VectorSpace, state: ChainState) -> ChainState:
        """Begin the second if the first has no more to ask."""
        if state.first_result is not None or self.first.ask(state.running, 1) is not None:
            return state
        if isinstance(self.first, Finishes):
            state.running = self.first.finish(space, state.running)
        found = self.first.result(space, state.running)
        known = attrs.fields_dict(type(found))
        for name, _ in self.carry:
            if name not in known:
                msg = f"carry: {type(found).__name__} has no field {name!r}; it has {', '.join(known)}."
                raise ValueError(msg)
        inputs = {target: getattr(found, name) for name, target in self.carry}
        return ChainState(
            running=self.then.init(space, **inputs),
            first_result=found,
            num_matvecs=state.num_matvecs,
            first_matvecs=state.num_matvecs,
        )
