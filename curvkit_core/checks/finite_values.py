"""Losses and products that are no numbers: in which batch, in which parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.checks.finding import Finding, report
from curvkit_core.linearize import Linearization
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["check_loss", "check_product"]


def check_loss(problem: Problem, piece: Piece, lin: Linearization) -> bool:
    """Report ``loss-not-finite``; whether it is finite."""
    value = lin.loss_value()
    if bool(torch.isfinite(value).all()):
        return True
    finding = Finding(
        code="loss-not-finite",
        seen=f"the loss of batch {piece.number} is {float(value)}: its derivatives mean nothing.",
        mend="look for inf or NaN in that batch, in the parameters, or in the loss (log of 0).",
    )
    report(problem, finding)
    return False


def check_product(problem: Problem, piece: Piece, V: Tensor, product: Tensor) -> bool:
    """Report ``product-not-finite`` where the vectors themselves are finite; whether the product is."""
    finite = torch.isfinite(product)
    if bool(finite.all()) or not bool(torch.isfinite(V).all()):
        return bool(finite.all())
    where = _place(problem, finite)
    finding = Finding(
        code="product-not-finite",
        seen=f"the product of batch {piece.number} is not finite, first in {where}, though the batch's loss is.",
        mend="look for a function without a derivative where it is used (sqrt or norm at 0, 0/0 masked afterwards), "
        "or for overflow in float16.",
    )
    report(problem, finding)
    return False


def _place(problem: Problem, finite: Tensor) -> str:
    first = int((~finite).reshape(-1, finite.shape[-1]).any(dim=0).nonzero()[0])
    if finite.shape[-1] == problem.parameters.n:
        return next(f"parameter {e.name!r}" for e in problem.parameters if e.place.start <= first < e.place.stop)
    return f"element {first}"
