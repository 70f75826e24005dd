"""What an algorithm is: plain configuration, four methods, and state that is data (reverse communication).

An algorithm never multiplies. It is asked which vectors to multiply, told the products, and can give its result at any
moment. So every algorithm has budgets, progress, interruption and resumption from the driver, third parties' too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from attrs import frozen
from torch import Tensor

from curvkit_core.backends import VectorSpace

__all__ = ["Algorithm", "Finishes", "HasRoom", "Progress", "ReportsProgress"]


@frozen(kw_only=True)
class Progress:
    """How far: `done` products of about `total` (None: not known), and a few words."""

    done: int
    total: int | None = None
    note: str = ""


@runtime_checkable
class Algorithm(Protocol):
    """A frozen attrs class; its fields are its configuration: plain, hashable, no tensors.

    The state is an attrs class whose fields are tensors, a :class:`curvkit_core.algorithms.Basis`, numbers, strings,
    None, tuples of these, or further such classes: it is written field by field into checkpoints, so no two of its
    tensors may depend on sharing memory. A class attribute ``needs_symmetric = True`` makes the driver refuse operators
    that are not symmetric.
    """

    @property
    def init(self) -> Callable[..., Any]:
        """``init(space, **inputs) -> state``, a method: start, with no product yet.

        Tensors (start vectors, right-hand sides) come in here, by name; ValueError: it cannot run so.
        """
        ...

    def ask(self, state: Any, max_rows: int) -> Tensor | None:
        """The vectors to multiply next, at most `max_rows` rows; None when done. From the state alone."""
        ...

    def tell(self, space: VectorSpace, state: Any, V: Tensor, AV: Tensor) -> Any:
        """Take in the products AV of the rows V that were asked.

        Consumes the old state and AV, and may reuse their buffers; V may be the state's own and is left as it is.
        """
        ...

    def result(self, space: VectorSpace, state: Any) -> Any:
        """The result so far, a frozen attrs class; right at any moment, and says whether it has converged."""
        ...


@runtime_checkable
class ReportsProgress(Protocol):
    """An algorithm that can tell how far it is."""

    def progress(self, state: Any) -> Progress:
        """How far; costs no product and does not wait for the device."""
        ...


@runtime_checkable
class Finishes(Protocol):
    """An algorithm whose result takes memory that its state could give."""

    def finish(self, space: VectorSpace, state: Any) -> Any:
        """Called once by the driver, before the last `result`: the state need not be able to go on afterwards."""
        ...


@runtime_checkable
class HasRoom(Protocol):
    """An algorithm whose products become part of its state, and can be computed where they will lie."""

    def room(self, space: VectorSpace, state: Any, V: Tensor) -> Tensor | None:
        """Memory for the products of the rows V that were asked, apart from theirs and in use by nothing; None: none.

        Where it is given, `tell` is called with it as AV.
        """
        ...
