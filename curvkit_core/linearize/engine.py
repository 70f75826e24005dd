"""The engine: which microbatch is linearized how. Options change cost, never meaning.

`auto` keeps the graphs of as many microbatches as the memory budget holds, and linearizes the others leanly; where an
operation has no forward-mode derivative, by reverse mode.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from attrs import field, frozen, validators
from torch import Tensor

from curvkit_core.backends import HoldsShards
from curvkit_core.linearize.compiled import CompiledLinearization, CompiledProducts
from curvkit_core.linearize.finite_difference import FiniteDifferenceLinearization
from curvkit_core.linearize.kept_graphs import KeptGraphs
from curvkit_core.linearize.lean import LeanLinearization, NoForwardDerivativeError
from curvkit_core.linearize.linearization import Linearization
from curvkit_core.linearize.memory import SHARE_OF_FREE, free_memory, parse_bytes
from curvkit_core.linearize.reverse import ForwardGraph, ReverseLinearization
from curvkit_core.losses.batch_tree import map_tensors
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.batches import leading_size
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["Engine", "EngineOptions"]

_log = logging.getLogger("curvkit")
_STRATEGIES = ("auto", "reverse", "lean", "finite-difference")
_CACHES = ("auto", "keep", "rebuild", "offload")
_GROWTH = 2.4  # a forward graph and that of its first derivative, as multiples of the first
_RESHUFFLES = 2  # after so many passes with other contents, graphs are no longer built in vain


@frozen(kw_only=True)
class EngineOptions:
    """How products are made: cost, never meaning.

    Parameters
    ----------
    strategy : {"auto", "reverse", "lean", "finite-difference"}
        ``"reverse"``: on one forward graph, by reverse mode alone. ``"lean"``: J v by a dual forward without a graph,
        J^T u by a forward and a backward; one training step's memory. ``"finite-difference"``: not exact, opt-in.
        ``"auto"``: reverse where a graph is kept, else lean, else reverse.
    cache : {"auto", "keep", "rebuild", "offload"}
        Whether forward graphs are kept between products: as many as `memory_budget` holds, all, none, or all in host
        memory (on the CPU that is ``"keep"``).
    memory_budget : int, str or None
        For ``"auto"``: bytes, or ``"8GiB"``; None: half of the memory that is free at the first product.
    compile : bool
        Compile whole products with ``torch.compile``: tens of seconds for a model and shape, then faster on many. Where
        it fails or its result differs from the eager one, products are eager and the reason is told.
    """

    strategy: str = field(default="auto", validator=validators.in_(_STRATEGIES))
    cache: str = field(default="auto", validator=validators.in_(_CACHES))
    memory_budget: int | None = field(default=None, converter=parse_bytes)
    compile: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse to keep what a strategy does not make."""
        if self.compile and (self.strategy != "auto" or self.cache in ("keep", "offload")):
            msg = (
                f"compile=True is a strategy of its own and keeps no graph: expected strategy='auto' and cache='auto' "
                f"or 'rebuild', not strategy={self.strategy!r} and cache={self.cache!r}."
            )
            raise ValueError(msg)
        if self.strategy in ("lean", "finite-difference") and self.cache in ("keep", "offload"):
            msg = (
                f"strategy={self.strategy!r} has no graph to keep: expected cache='rebuild' or 'auto', "
                f"not {self.cache!r}. Use strategy='reverse' to keep graphs."
            )
            raise ValueError(msg)


class Engine:
    """Linearizes the microbatches of one operator's problem.

    Parameters
    ----------
    problem : Problem
        Its kept graphs are shared with every operator and block of it.
    options : EngineOptions
    """

    def __init__(self, problem: Problem, options: EngineOptions) -> None:
        self.problem = problem
        self.options = _on_shards(options) if isinstance(problem.backend, HoldsShards) else options
        self.fallback = ""  # why lean gave way to reverse
        self._budget: float | None = None
        self._pieces = self._from_kept = 0
        self._told = ""
        self._difference_errors: list[float] = []
        self._compiled = CompiledProducts(problem) if options.compile else None

    def begin_pass(self) -> None:
        """Call before a pass over the data: kept graphs are compared with the model."""
        self._pieces = self._from_kept = 0
        if self._keeps:
            self._graphs.begin_pass(self.problem.model, self.problem.loss)
            if self._budget is None and self.options.cache == "auto":
                free = free_memory(self.problem.parameters.device) + self._graphs.nbytes
                given = self.options.memory_budget
                self._budget = SHARE_OF_FREE * free if given is None else given

    @contextmanager
    def linearized(self, piece: Piece) -> Iterator[Linearization]:
        """Linearize one microbatch, for the length of the context."""
        self._pieces += 1
        graph = self._kept_graph(piece) if self._keeps else None
        if graph is not None:
            self._from_kept += 1
            with graph.opened():
                yield ReverseLinearization(graph, self.problem.parameters)
            if self._budget is not None:
                self._graphs.fit(self._budget)
        elif self._compiled is not None and not self._compiled.reason:
            yield CompiledLinearization(self.problem, piece, self._compiled)
        elif self.options.strategy == "finite-difference":
            yield FiniteDifferenceLinearization(self.problem, piece, self._difference_errors)
        elif self.options.strategy == "lean":
            yield LeanLinearization(self.problem, piece)
        elif self.options.strategy == "auto" and not self.fallback:
            yield _LeanElseReverse(self.problem, piece, self)
        else:
            graph = ForwardGraph(self.problem, piece.batch, loss_weight=piece.loss_weight)
            with graph.opened():
                yield ReverseLinearization(graph, self.problem.parameters)

    def end_pass(self) -> None:
        """Call after a pass: what was done goes into the log once, and again when it changes."""
        told = self.describe()
        if told != self._told:
            self._told = told
            _log.info("%r: %s", self.problem, told)

    def describe(self) -> str:
        """How the last pass made its products: ``"reverse on kept graphs of 6 of 6 microbatches (3.1 MB)"``."""
        if self._compiled is not None and not self._compiled.reason:
            return "compiled, rebuilt"
        rest = self.options.strategy
        if rest == "auto":
            rest = f"reverse ({self.fallback})" if self.fallback else "lean"
        if self._difference_errors:
            rest = f"{rest} (relative error about {self._difference_errors[0]:.0e})"
        if self._compiled is not None:
            rest = f"{rest} (not compiled: {self._compiled.reason})"
        if not self._from_kept:
            return f"{rest}, rebuilt"
        held = f"reverse on kept graphs of {self._from_kept} of {self._pieces} microbatches"
        if nbytes := self._graphs.nbytes:
            held += f" ({nbytes / 1e6:,.1f} MB)"
        return held if self._from_kept == self._pieces else f"{held}, the others {rest}"

    @property
    def _keeps(self) -> bool:
        # what a user's own function has captured carries no fingerprint: its graphs are kept only on request
        if self.options.cache == "auto" and getattr(self.problem.loss, "hessian_only", False):
            return False
        return (
            self.options.cache != "rebuild" and self._compiled is None and self.options.strategy in ("auto", "reverse")
        )

    @property
    def _graphs(self) -> KeptGraphs:
        history = self.problem.history
        if history.kept_graphs is None:
            history.kept_graphs = KeptGraphs()
        graphs = history.kept_graphs
        assert isinstance(graphs, KeptGraphs)
        return graphs

    def _kept_graph(self, piece: Piece) -> ForwardGraph | None:
        """A graph kept before, or a new one that will be; None if the budget has no room for it."""
        key, rows = (piece.number, piece.part), leading_size(piece.batch)
        graph = self._graphs.find(key, piece.batch, self.problem.parameters)
        if graph is not None:
            return graph
        forecast = self._graphs.forecast(rows)
        in_vain = self._graphs.changes >= _RESHUFFLES
        if self._budget is not None and (in_vain or self._graphs.nbytes + (forecast or 0.0) > self._budget):
            return None
        besides = self._graphs.release(key)
        own = map_tensors(torch.Tensor.clone, piece.batch)  # a loader may fill the same tensors with its next batch
        graph = ForwardGraph(self.problem, own, besides=besides, offload=self.options.cache == "offload")
        if self._budget is not None and forecast is None and _GROWTH * graph.nbytes() > self._budget:
            return None
        self._graphs.add(key, graph, piece.batch, rows)
        return graph


def _on_shards(options: EngineOptions) -> EngineOptions:
    """Reverse mode on graphs built anew: what all ranks can do in step."""
    if options.strategy not in ("auto", "reverse") or options.compile:
        chosen = "compile=True" if options.compile else f"strategy={options.strategy!r}"
        msg = (
            f"{chosen} does not work on sharded parameters: torch has no forward mode through them, and other values "
            "cannot stand in their place. Use strategy='reverse', or 'auto'."
        )
        raise ValueError(msg)
    if options.cache not in ("auto", "rebuild"):
        msg = (
            f"cache={options.cache!r} does not work on sharded parameters: ranks that keep different graphs would wait "
            "for one another. Use cache='rebuild', or 'auto'."
        )
        raise ValueError(msg)
    return EngineOptions(strategy="reverse", cache="rebuild")


class _LeanElseReverse(LeanLinearization):
    """Lean as long as every operation has a forward-mode derivative; from the first that has none, reverse."""

    def __init__(self, problem: Problem, piece: Piece, engine: Engine) -> None:
        super().__init__(problem, piece)
        self._engine = engine

    def jvp(self, V: Tensor) -> Outputs:
        if not self._engine.fallback:
            try:
                return super().jvp(V)
            except NoForwardDerivativeError as error:
                self._engine.fallback = str(error.__cause__).split(" Please")[0].strip()
        graph = ForwardGraph(self.problem, self.batch)
        with graph.opened():
            lin = ReverseLinearization(graph, self.parameters)
            self._y = lin.y
            return lin.jvp(V)
