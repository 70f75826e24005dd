"""Graphs kept from product to product, for as long as nothing that they have read has changed.

Before each pass the model's fingerprint is compared, and with each microbatch its contents: whatever differs, all
graphs are dropped, and the next product is computed afresh. So a product after an optimiser's step, a write to
``.data``, a changed buffer or a reshuffled loader is right, and only slower.
"""

from __future__ import annotations

import logging
from typing import Any

from attrs import define, field
from torch import nn

from curvkit_core.linearize.fingerprint import Fingerprint, fingerprint_of_batch, fingerprint_of_model
from curvkit_core.linearize.reverse import ForwardGraph
from curvkit_core.problem.parameters import ParameterSpace

__all__ = ["KeptGraph", "KeptGraphs"]

_log = logging.getLogger("curvkit")


@define(eq=False)
class KeptGraph:
    """One microbatch's graph, what the microbatch was, and what the graph holds in bytes."""

    graph: ForwardGraph
    batch: Fingerprint
    rows: int
    nbytes: int = 0
    stages: int = 0

    def measure(self) -> None:
        """Count the bytes again if a derivative's graph was added."""
        if self.stages != self.graph.stages:
            self.stages = self.graph.stages
            self.nbytes = self.graph.nbytes()


@define(eq=False)
class KeptGraphs:
    """The kept graphs of one problem, shared by its operators and blocks.

    Parameters
    ----------
    graphs : dict
        By (batch number, part).
    changes : int
        How often what the graphs had read was found changed.
    """

    graphs: dict[tuple[int, int], KeptGraph] = field(factory=dict)
    changes: int = 0
    _seen: Fingerprint | None = None

    @property
    def nbytes(self) -> int:
        """What all of them hold."""
        return sum(kept.nbytes for kept in self.graphs.values())

    def begin_pass(self, model: nn.Module, loss: object) -> None:
        """Compare model and loss with what the graphs have read; drop them if they differ."""
        seen = fingerprint_of_model(model, loss)
        if self._seen is not None and seen != self._seen:
            self.drop("the model's parameters, buffers, attributes or modes, or the loss's, have changed")
        self._seen = seen

    def find(self, key: tuple[int, int], batch: Any, parameters: ParameterSpace) -> ForwardGraph | None:
        """The graph of this microbatch, if it was kept, holds these contents and reaches these parameters."""
        kept = self.graphs.get(key)
        if kept is None:
            return None
        if kept.batch != fingerprint_of_batch(batch):
            self.drop(f"batch {key[0]} has other contents than before")
            return None
        return kept.graph if all(e.parameter in kept.graph.leaves for e in parameters) else None

    def release(self, key: tuple[int, int]) -> tuple[nn.Parameter, ...]:
        """Let go of this microbatch's graph, if there is one, and tell over which parameters it was.

        A graph for another block is built over both: blocks that take turns would else rebuild each other's.
        """
        kept = self.graphs.pop(key, None)
        return () if kept is None else tuple(kept.graph.leaves)

    def add(self, key: tuple[int, int], graph: ForwardGraph, batch: Any, rows: int) -> None:
        """Keep a graph."""
        self.graphs[key] = KeptGraph(graph, fingerprint_of_batch(batch), rows)

    def forecast(self, rows: int) -> float | None:
        """Bytes that a graph of so many rows will hold, by those that were measured; None before the first."""
        measured = [kept for kept in self.graphs.values() if kept.nbytes]
        if not measured:
            return None
        return max(kept.nbytes / max(kept.rows, 1) for kept in measured) * rows

    def fit(self, budget: float) -> None:
        """Drop the last graphs until the rest fits into `budget` bytes."""
        for kept in self.graphs.values():
            kept.measure()
        for key in sorted(self.graphs, reverse=True):
            if self.nbytes <= budget:
                return
            del self.graphs[key]

    def drop(self, reason: str) -> None:
        """Drop all graphs and say why."""
        if self.graphs:
            self.changes += 1
            _log.info("kept graphs dropped: %s", reason)
        self.graphs.clear()
