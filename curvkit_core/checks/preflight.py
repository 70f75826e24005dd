"""The checks that one microbatch of the first pass goes through."""

from __future__ import annotations

import torch

from curvkit_core.checks.finding import Finding, report
from curvkit_core.linearize import LeanLinearization, Linearization
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["preflight"]


def preflight(problem: Problem, piece: Piece, lin: Linearization) -> None:
    """Check `lin`, the linearization of `piece`: its loss is finite and, for the first piece, its forward repeats."""
    value = lin.loss_value()
    if not bool(torch.isfinite(value).all()):
        report(
            problem,
            Finding(
                code="loss-not-finite",
                seen=f"the loss of batch {piece.number} is {float(value)}: its derivatives mean nothing.",
                mend="look for inf or NaN in that batch, in the parameters, or in the loss (log of 0).",
            ),
        )
    if piece.number == 0:
        _check_repeats(problem, piece, lin)


def _check_repeats(problem: Problem, piece: Piece, lin: Linearization) -> None:
    """Run the forward again: with dropout, or noise of the model's own, every product would be of another matrix."""
    again = LeanLinearization(problem, piece).y
    # rounding differs between two attention kernels or parallel reductions; a changed mask differs by far more
    for first, second in zip(lin.y, again, strict=True):
        scale = first.abs().amax().clamp_min(torch.finfo(first.dtype).tiny) if first.numel() else torch.ones(())
        gap = float(((first - second).abs().amax() / scale) if first.numel() else 0.0)
        if gap > torch.finfo(first.dtype).eps ** 0.5:
            report(
                problem,
                Finding(
                    code="forward-not-repeatable",
                    seen=f"two forward passes of batch {piece.number} differ by {gap:.2g} of the largest output "
                    f"(mode={problem.mode!r}): a product would belong to no one matrix.",
                    mend="use mode='eval', or switch off dropout and other noise in the model.",
                ),
            )
            return
