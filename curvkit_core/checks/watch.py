"""What watches an operator's passes over the data, as long as there is something left to check.

Every microbatch of the problem's first two passes, and of the first pass of each kind of operator, goes through the
cheap checks; the first microbatch with units of each kind's first pass through the probe. What the data are is compared
between the first two passes, and before that with a second reading where the first pass drew random numbers.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor

from curvkit_core.backends import HoldsShards
from curvkit_core.checks.batch_statistics import check_microbatch
from curvkit_core.checks.data_contents import Contents, Digest
from curvkit_core.checks.finding import note
from curvkit_core.checks.finite_values import all_finite, check_loss, check_product
from curvkit_core.checks.loader import batch_order_matters, compare_readings
from curvkit_core.checks.probe import Kind, probe
from curvkit_core.linearize import EngineOptions, Linearization
from curvkit_core.linearize.reverse import ReverseLinearization
from curvkit_core.problem.problem import Piece, Problem
from curvkit_core.problem.untouched import untouched

__all__ = ["Watch", "begin"]


class Watched(Protocol):
    """What is watched: an operator over a problem's data."""

    symmetric: bool

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """A microbatch's sum."""
        ...


def begin(problem: Problem, operator: Watched, options: EngineOptions) -> Watch | None:
    """Watch a pass that begins now; None where there is nothing left to check.

    A kind is an operator's class with its strategy and the problem's kernels. One that was probed over some parameters
    is not probed again over part of them.
    """
    if problem.preflight == "off":
        return None
    history = problem.history
    key = (type(operator), options.strategy, options.compile, problem.kernels)
    reached = frozenset(e.parameter for e in problem.parameters)
    probed = any(reached <= covered for covered in history.probed.get(key, ()))
    if probed and history.passes_compared >= 2:
        return None
    return Watch(problem, operator, options, key=None if probed else key, reached=reached)


class Watch:
    """The checks of one pass.

    Parameters
    ----------
    problem : Problem
    operator : Watched
        Its products on the probe are made on a copy, so that what it counts during a pass is not disturbed.
    options : EngineOptions
        The operator's.
    key : tuple or None
        The kind, if it is to be probed.
    reached : frozenset of Parameter
        What the problem differentiates with respect to.
    """

    def __init__(
        self,
        problem: Problem,
        operator: Watched,
        options: EngineOptions,
        *,
        key: tuple[Any, ...] | None,
        reached: frozenset[Any],
    ) -> None:
        self.problem = problem
        self.operator = operator
        self.options = options
        self._key = key
        self._reached = reached
        self._fine = True
        self._batchwise = False
        self._looked = False
        self._digest = Digest() if problem.history.passes_compared < 2 else None
        self._random_state = torch.get_rng_state()
        self._draws = False

    def after(self, piece: Piece, lin: Linearization, V: Tensor, product: Tensor) -> None:
        """Check a microbatch whose product has been made; called outside of its linearization's context."""
        problem = self.problem
        check_microbatch(problem, piece)
        # after the first pass only where the product tells: a lean linearization needs a forward for its loss's value
        if problem.history.passes_compared == 0 or not all_finite(product):
            self._fine = check_loss(problem, piece, lin) and self._fine
        self._fine = self._fine and check_product(problem, piece, V, product)
        if piece.number == piece.part == 0:
            self._batchwise = batch_order_matters(problem)
        # without targets that count everything is zero, and looks right
        if not self._looked and float(piece.count) > 0:
            self._looked = True
            if self._key is not None and self._fine and isinstance(problem.backend, HoldsShards):
                seen = (
                    f"{type(self.operator).__name__}: on sharded parameters products are not held against differences."
                )
                note(problem, "product-disagrees", seen)
            elif self._key is not None and self._fine:
                twin = copy.copy(self.operator)
                kind = Kind(
                    name=type(twin).__name__,
                    batch_product=twin.batch_product,
                    symmetric=twin.symmetric,
                    options=self.options,
                )
                probe(problem, kind, piece, reverse=isinstance(lin, ReverseLinearization))
        self._hash(piece)

    def end(self, units: float) -> None:
        """The pass is over: compare its data with another's, and remember what needs no further check."""
        problem, history = self.problem, self.problem.history
        if self._digest is not None:
            contents, before = self._digest.contents(units), history.contents
            if isinstance(before, Contents):
                compare_readings(problem, before, contents, batchwise=self._batchwise)
            elif self._draws:
                compare_readings(problem, contents, self._read_again(), batchwise=self._batchwise)
            history.contents = contents
        if self._key is not None:
            history.probed.setdefault(self._key, []).append(self._reached)
        history.passes_compared += 1

    def _hash(self, piece: Piece) -> None:
        if self._digest is None:
            return
        self._draws = self._draws or not torch.equal(self._random_state, torch.get_rng_state())
        try:
            self._digest.add(piece)
        except (RuntimeError, NotImplementedError, TypeError) as error:  # sparse, nested or quantised tensors
            self._digest = None
            seen = f"the batches' bytes cannot be read, so passes are not compared: {error}"
            note(self.problem, "loader-changed", seen)

    def _read_again(self) -> Contents:
        """The data as they come from another state of torch's generator, which every pass finds and leaves as it was.

        A loader that shuffles would else give the same order at each product, until someone draws a number in between.
        """
        problem, digest, units = self.problem, Digest(), 0.0
        with untouched(problem.model, problem.mode):
            torch.rand(1)
            for piece in problem.pieces():
                digest.add(piece)
                units += float(piece.count)
        return digest.contents(units)
