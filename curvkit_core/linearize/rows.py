"""Several vectors through one graph: one after the other, or batched by vmap, whichever was measured faster.

On a CPU rows go one after the other: batched ones took 1.3 to 1.7 times as long. Elsewhere the first call with several
rows is made both ways; batching is used if it was faster and gave the same numbers, in widths that fit the free memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from attrs import define
from torch import Tensor

from curvkit_core.linearize.memory import free_memory

__all__ = ["RowPolicy"]

Slopes = tuple[Tensor | None, ...]


@define
class RowPolicy:
    """How rows go through one graph.

    Parameters
    ----------
    batched : bool or None
        None: not measured yet.
    width : int
        Rows at once when batched.
    """

    batched: bool | None = None
    width: int = 1

    def gradients(
        self,
        roots: Sequence[Tensor],
        leaves: Sequence[Tensor],
        along: Sequence[Tensor],
        *,
        nbytes: int = 0,
        keep_graph: bool = True,
    ) -> list[Slopes]:
        """The gradients of `roots` in `leaves` along each row: `along` has one tensor a root, with a leading row axis.

        `nbytes` is what one row is expected to hold meanwhile: it bounds the width. Without `keep_graph` the last of
        the rows that go one after the other frees the graph as it goes through it.
        """
        rows = along[0].shape[0]
        if self.batched is None and rows > 1:
            device = along[0].device
            if device.type == "cpu":
                self.batched = False
            else:
                self.width = max(2, int(0.5 * free_memory(device) / max(nbytes, 1)))
                self._measure(roots, leaves, along)
        if not self.batched:
            return [
                one_row(roots, leaves, [a[k] for a in along], keep_graph=keep_graph or k < rows - 1)
                for k in range(rows)
            ]
        found: list[Slopes] = []
        for low in range(0, rows, self.width):
            found += batched_rows(roots, leaves, [a[low : low + self.width] for a in along])
        return found

    def _measure(self, roots: Sequence[Tensor], leaves: Sequence[Tensor], along: Sequence[Tensor]) -> None:
        """Make two rows both ways, twice: the first time warms up."""
        two = [a[:2] for a in along]
        seconds = {}
        try:
            for name in ("looped", "batched", "looped", "batched"):
                _wait(along[0].device)
                begun = time.perf_counter()
                if name == "looped":
                    expected = [one_row(roots, leaves, [a[k] for a in two]) for k in range(2)]
                else:
                    found = batched_rows(roots, leaves, two)
                _wait(along[0].device)
                seconds[name] = time.perf_counter() - begun
        except RuntimeError:  # an operation without a batching rule, or no memory for two
            self.batched = False
            return
        self.batched = seconds["batched"] < seconds["looped"] and _agree(found, expected)


def one_row(
    roots: Sequence[Tensor], leaves: Sequence[Tensor], along: Sequence[Tensor], *, keep_graph: bool = True
) -> Slopes:
    """One row's gradients; None for a leaf that is not reached."""
    return torch.autograd.grad(roots, leaves, along, retain_graph=keep_graph, allow_unused=True)


def batched_rows(roots: Sequence[Tensor], leaves: Sequence[Tensor], along: Sequence[Tensor]) -> list[Slopes]:
    """All rows' gradients in one batched pass."""
    together = torch.autograd.grad(roots, leaves, along, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return [tuple(None if t is None else t[k] for t in together) for k in range(along[0].shape[0])]


def _agree(found: list[Slopes], expected: list[Slopes]) -> bool:
    for f_row, e_row in zip(found, expected, strict=True):
        for f, e in zip(f_row, e_row, strict=True):
            if (f is None) != (e is None):
                return False
            if f is not None and e is not None:
                tolerance = torch.finfo(e.dtype).eps ** 0.5 * float(e.abs().max())
                if float((f - e).abs().max()) > tolerance:
                    return False
    return True


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
