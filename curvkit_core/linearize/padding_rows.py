"""Embeddings' padding rows, differentiated like the others for as long as curvature is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["padding_rows_differentiated"]


@contextmanager
def padding_rows_differentiated(model: nn.Module) -> Iterator[None]:
    """Surround a forward and its backward passes: no embedding has a padding row; afterwards each has its own again.

    ``padding_idx`` has torch leave the row out of the gradient, so that training does not move it. The loss depends on
    it all the same where padding is attended to, and forward mode and finite differences say so: J v and J^T u would
    not be each other's transpose (torch 2.13). Where padding is masked, both are zero there.
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None]
    rows = [table.padding_idx for table in tables]
    try:
        for table in tables:
            table.padding_idx = None
        yield
    finally:
        for table, row in zip(tables, rows, strict=True):
            table.padding_idx = row
