"""An algorithm that is options of its own over another one, which does the work."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from curvkit_core.algorithms.protocol import Progress
from curvkit_core.backends import VectorSpace

__all__ = ["Delegating"]


class Delegating:
    """Base of algorithms whose methods are those of another, their `_engine`: a subclass has fields, and says which.

    The engine is made of the fields at each call: it is configuration, as they are.
    """

    __slots__ = ()

    @property
    def _engine(self) -> Any:
        raise NotImplementedError  # each subclass says which; there is no algorithm without one

    def init(self, space: VectorSpace) -> Any:
        """As the engine."""
        return self._engine.init(space)

    def ask(self, state: Any, max_rows: int) -> Tensor | None:
        """As the engine."""
        rows: Tensor | None = self._engine.ask(state, max_rows)
        return rows

    def tell(self, space: VectorSpace, state: Any, V: Tensor, AV: Tensor) -> Any:
        """As the engine."""
        return self._engine.tell(space, state, V, AV)

    def result(self, space: VectorSpace, state: Any) -> Any:
        """As the engine."""
        return self._engine.result(space, state)

    def progress(self, state: Any) -> Progress:
        """As the engine."""
        told: Progress = self._engine.progress(state)
        return told
