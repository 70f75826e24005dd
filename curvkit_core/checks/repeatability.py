"""Whether a second forward gives the same outputs: with dropout, or noise of the model's own, it does not."""

from __future__ import annotations

import torch

from curvkit_core.checks.finding import Finding, report
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["check_repeats"]


def check_repeats(problem: Problem, piece: Piece, one: Outputs, other: Outputs) -> bool:
    """Report ``forward-not-repeatable``; whether the two agree."""
    # rounding differs between two attention kernels or parallel reductions; a changed mask differs by far more
    for first, second in zip(one, other, strict=True):
        gap = _gap(first, second)
        if gap > torch.finfo(first.dtype).eps ** 0.5:
            finding = Finding(
                code="forward-not-repeatable",
                seen=f"two forward passes of batch {piece.number} differ by {gap:.2g} of the largest output "
                f"(mode={problem.mode!r}): a product would belong to no one matrix.",
                mend="use mode='eval', or switch off dropout and other noise in the model.",
            )
            report(problem, finding)
            return False
    return True


def _gap(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference over the largest finite output; inf where only one of the two is finite."""
    finite = torch.isfinite(first)
    if not bool((finite == torch.isfinite(second)).all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    a, b = first[finite], second[finite]
    return float((a - b).abs().amax() / a.abs().amax().clamp_min(torch.finfo(a.dtype).tiny))
