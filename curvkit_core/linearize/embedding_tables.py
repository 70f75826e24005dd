"""Embeddings' tables as functions have them for as long as curvature is computed: no options of training at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["NEUTRAL", "has_options", "plain_tables"]

#: What changes a lookup's gradient, or its table, but not its value; with the values that change nothing.
NEUTRAL: dict[str, Any] = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False}


@contextmanager
def plain_tables(model: nn.Module) -> Iterator[None]:
    """Surround a forward and its backward passes: lookups have the derivatives of lookups; afterwards all is as it was.

    ``padding_idx`` has torch leave a row out of the gradient, so that training does not move it, and
    ``scale_grad_by_freq`` divides rows of it. The loss depends on them all the same, as forward mode and finite
    differences say: J v and J^T u would not be each other's transpose (torch 2.13). Where padding is masked, both are
    zero there. ``max_norm`` writes into the table, and ``sparse`` gives gradients that few functions take.

    Embeddings with a forward of their own are left as they are: see
    :mod:`curvkit_core.linearize.twice_differentiable`.

    Raises
    ------
    ValueError
        If a table's ``max_norm`` has still to shorten a row: the model's forward is no function of its parameters then.
    """
    tables = [m for m in held_modules(model) if isinstance(m, nn.Embedding | nn.EmbeddingBag) and has_options(m)]
    for table in tables:
        _check_norms(table)
    plain = [table for table in tables if type(table).forward is nn.Embedding.forward]
    settings = [{name: getattr(table, name) for name in NEUTRAL} for table in plain]
    try:
        for table in plain:
            vars(table).update(NEUTRAL)
        yield
    finally:
        for table, own in zip(plain, settings, strict=True):
            vars(table).update(own)


def has_options(table: nn.Module) -> bool:
    """Whether an embedding, or a bag of them, has options that are not neutral."""
    return any(getattr(table, name) != plain for name, plain in NEUTRAL.items())


def _check_norms(table: nn.Embedding | nn.EmbeddingBag) -> None:
    if table.max_norm is None:
        return
    weight = table.weight.detach()
    longest = float(torch.linalg.vector_norm(weight, table.norm_type, dim=1).max())
    if longest > table.max_norm * (1.0 + 4.0 * torch.finfo(weight.dtype).eps):  # torch shortens to a little less
        msg = (
            f"a row of an {type(table).__name__} has norm {longest:.4g}, and its max_norm={table.max_norm:g} would "
            "shorten it in the forward, in place: expected rows that are short enough. Do it once for all: "
            f"table.weight.data.renorm_({table.norm_type:g}, 0, {table.max_norm:g})."
        )
        raise ValueError(msg)
