"""Rows computed one after the other, laid together: one row, the usual case of a solver, is not copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["stacked", "stacked_columns"]


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """``torch.stack(rows)``, a view where there is one row: at a language model's head each copy is (N, V)."""
    return rows[0][None] if len(rows) == 1 else torch.stack(list(rows))


def stacked_columns(rows: Iterable[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """One tensor a place from one tuple a row."""
    return tuple(stacked(column) for column in zip(*rows, strict=True))
