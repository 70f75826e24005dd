r"""A product against central differences :math:`(f(h) - f(-h)) / 2h` on a ladder of steps: three verdicts.

Right, where the difference at one step is within 1 % of the product; an independent number does not agree by chance.
Wrong, where two neighbouring steps agree within 1 % and are ten times further from the product. Otherwise the
differences themselves are no good (kinks, rounding), and nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["Judgement", "judge", "ladder", "norm"]

_CLOSE = 1e-2
_APART = 10.0


@frozen(kw_only=True)
class Judgement:
    """What the ladder says: "right", "wrong" or "inconclusive", and its numbers in words."""

    verdict: str
    seen: str


def ladder(dtype: torch.dtype) -> tuple[float, ...]:
    """Steps, in units of the point's norm, in the order in which they are tried: neighbours are ten times apart."""
    return (1e-4, 1e-5, 1e-6) if dtype == torch.float64 else (1e-3, 1e-4, 1e-2)


def norm(vector: Tensor) -> float:
    """Euclidean norm, summed in float64, on this process."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def judge(product: Tensor, difference: Callable[[float], Tensor], steps: Sequence[float], rounding: float) -> Judgement:
    """Hold `product` against ``difference(step)`` for as many steps as it takes.

    Parameters
    ----------
    product : Tensor
        The derivative in question, along the direction of the differences.
    difference : callable
        ``difference(step)`` -> central difference, shaped like `product`.
    steps : sequence of float
        From :func:`ladder`, or some of it.
    rounding : float
        The size of a difference's own rounding error at step 1: below it nothing can be seen.
    """
    size = norm(product)
    found: dict[float, Tensor] = {}
    told = []
    for step in steps:
        found[step] = near = difference(step)
        gap, scale, floor = norm(near - product), norm(near), rounding / max(found)
        if gap <= _CLOSE * max(scale, size):
            return Judgement(verdict="right", seen="")
        if size <= floor and all(norm(value) <= rounding / h for h, value in found.items()):
            return Judgement(verdict="right", seen="")  # both are zero as far as rounding lets one see
        told.append(f"{gap / max(scale, size):.1%} at step {step:.0e}")
        for other, value in found.items():
            neighbours = abs(other / step - 10.0) < 1e-6 or abs(step / other - 10.0) < 1e-6
            if not neighbours or norm(near - value) > _CLOSE * max(scale, norm(value)):
                continue
            if gap <= _APART * _CLOSE * max(scale, norm(value)):
                return Judgement(verdict="right", seen="")
            if gap > floor:
                return Judgement(verdict="wrong", seen=f"by {', '.join(told)}, where the differences agree")
    return Judgement(verdict="inconclusive", seen=f"by {', '.join(told)}, where no two differences agree")
