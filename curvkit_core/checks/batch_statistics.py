"""Modules that normalise by the batch they are given: the same network is another one on a smaller batch."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from curvkit_core.checks.finding import Finding, report
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["check_microbatch", "uses_batch_statistics"]


def uses_batch_statistics(model: nn.Module) -> list[str]:
    """Names of modules that do so in their present modes: BatchNorm in train mode, or without running statistics."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]


def check_microbatch(problem: Problem, piece: Piece) -> None:
    """Report ``batchnorm-train-microbatch`` where a batch has been cut."""
    if piece.part == 0:
        return
    names = uses_batch_statistics(problem.model)
    if names:
        finding = Finding(
            code="batchnorm-train-microbatch",
            seen=f"batch {piece.number} was cut (microbatch_size={problem.microbatch_size}), and {names[0]!r} "
            f"normalises by the rows it is given (mode={problem.mode!r}): the operator depends on the cut.",
            mend="use mode='eval', or microbatch_size=None with smaller batches, or GroupNorm.",
        )
        report(problem, finding)
