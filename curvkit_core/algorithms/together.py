"""Several algorithms on one operator, which share passes over the data.

What each asks for is multiplied in one block: on data whose graphs are not kept, the forward passes of a block are
shared by its rows. The whole is an algorithm itself, with one budget, one progress and one checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from attrs import define, field, frozen
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.protocol import Algorithm, Finishes, Progress, ReportsProgress
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.combined import CombinedResult

__all__ = ["Together", "run_together"]


@define(kw_only=True)
class TogetherState:
    """Each algorithm's state, and whose turn it is to ask first."""

    states: tuple[Any, ...]
    turn: int = 0
    num_matvecs: int = 0


@frozen(kw_only=True)
class Together:
    """Algorithms in lockstep. Holds what they hold.

    Parameters
    ----------
    algorithms : tuple of Algorithm
        At least one. Each asks in turn for as many rows as there is room for.
    """

    algorithms: tuple[Algorithm, ...] = field()

    @algorithms.validator
    def _some(self, attribute: Any, value: tuple[Algorithm, ...]) -> None:
        if not value:
            msg = "algorithms=(): expected at least one algorithm."
            raise ValueError(msg)

    @property
    def needs_symmetric(self) -> bool:
        """Whether one of them does."""
        return any(getattr(a, "needs_symmetric", False) for a in self.algorithms)

    @property
    def accepts_stochastic(self) -> bool:
        """Whether all of them do."""
        return all(getattr(a, "accepts_stochastic", False) for a in self.algorithms)

    def init(self, space: VectorSpace, *, inputs: Sequence[Mapping[str, Any]] | None = None) -> TogetherState:
        """Start each, with its own inputs where `inputs` has one mapping an algorithm."""
        given = [{}] * len(self.algorithms) if inputs is None else list(inputs)
        if len(given) != len(self.algorithms):
            msg = f"inputs has {len(given)} mappings: expected {len(self.algorithms)}, one an algorithm."
            raise ValueError(msg)
        states = tuple(a.init(space, **dict(own)) for a, own in zip(self.algorithms, given, strict=True))
        return TogetherState(states=states)

    def ask(self, state: TogetherState, max_rows: int) -> Tensor | None:
        """What they ask for, beginning with the one whose turn it is, until there is no more room."""
        blocks = [block for _, block in self._asked(state, max_rows)]
        if not blocks:
            return None
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def tell(self, space: VectorSpace, state: TogetherState, V: Tensor, AV: Tensor) -> TogetherState:
        """Give each its own products."""
        states = list(state.states)
        low = 0
        for number, block in self._asked(state, len(V)):
            high = low + len(block)
            states[number] = self.algorithms[number].tell(space, states[number], V[low:high], AV[low:high])
            low = high
        assert low == len(V), "an algorithm asked for other rows than before"
        turn = (state.turn + 1) % len(self.algorithms)
        return TogetherState(states=tuple(states), turn=turn, num_matvecs=state.num_matvecs + len(V))

    def finish(self, space: VectorSpace, state: TogetherState) -> TogetherState:
        """Finish those that can."""
        states = tuple(
            a.finish(space, own) if isinstance(a, Finishes) else own
            for a, own in zip(self.algorithms, state.states, strict=True)
        )
        return TogetherState(states=states, turn=state.turn, num_matvecs=state.num_matvecs)

    def result(self, space: VectorSpace, state: TogetherState) -> CombinedResult:
        """Each one's result."""
        results = tuple(a.result(space, own) for a, own in zip(self.algorithms, state.states, strict=True))
        return CombinedResult(results=results, num_matvecs=state.num_matvecs)

    def progress(self, state: TogetherState) -> Progress:
        """All products, and their total where each knows its own."""
        told = [
            a.progress(own)
            for a, own in zip(self.algorithms, state.states, strict=True)
            if isinstance(a, ReportsProgress)
        ]
        known = len(told) == len(self.algorithms) and all(t.total is not None for t in told)
        total = sum(t.total or 0 for t in told) if known else None
        return Progress(done=state.num_matvecs, total=total, note="; ".join(t.note for t in told if t.note))

    def _asked(self, state: TogetherState, max_rows: int) -> list[tuple[int, Tensor]]:
        """Whose rows are multiplied next: a function of the state and the room, so `tell` finds the same."""
        found = []
        for step in range(len(self.algorithms)):
            number = (state.turn + step) % len(self.algorithms)
            if max_rows < 1:
                break
            block = self.algorithms[number].ask(state.states[number], max_rows)
            if block is not None:
                found.append((number, block))
                max_rows -= len(block)
        return found


def run_together(
    algorithms: Sequence[Algorithm],
    op: CurvatureOperator,
    *,
    inputs: Sequence[Mapping[str, Any]] | None = None,
    **driver: Unpack[DriverOptions],
) -> tuple[Any, ...]:
    """Drive several algorithms on one operator, sharing passes over the data.

    Parameters
    ----------
    algorithms : sequence of Algorithm
    op : CurvatureOperator
    inputs : sequence of mappings or None
        One an algorithm, for its ``init``.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    tuple
        Their results, in their order: those that each would give alone.
    """
    algorithm = Together(algorithms=tuple(algorithms))
    result = run(algorithm, op, inputs=None if inputs is None else {"inputs": tuple(inputs)}, **driver)
    found: tuple[Any, ...] = result.results
    return found
