r"""Strategy `finite-difference`: central differences instead of second derivatives. Opt-in, and not exact.

.. math:: J v \approx \|v\|\,\frac{y(\theta + h\hat v) - y(\theta - h\hat v)}{2h}, \qquad
          \nabla^2\ell\,v \approx \|v\|\,\frac{g(\theta + h\hat v) - g(\theta - h\hat v)}{2h}, \quad \hat v = v/\|v\|.

v is normalised, so F(cv) = cF(v); the step :math:`h = \epsilon^{1/3}\max(\|\theta\|, 1)` balances truncation, O(h^2),
against rounding, O(eps/h). Parameters of fewer bits than float32 are displaced in a float32 copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from curvkit_core.linearize.displaced import gradient_at, outputs_at
from curvkit_core.linearize.lean import LeanLinearization
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["FiniteDifferenceLinearization", "difference_step"]


class FiniteDifferenceLinearization(LeanLinearization):
    """See the module. J v costs two forwards, a Hessian product two gradients; J^T u is exact.

    The first difference of an operator is made with twice the step as well: their gap over 3 estimates the truncation
    error, and where rounding rules, shows that.

    Parameters
    ----------
    problem : Problem
    piece : Piece
        The microbatch.
    errors : list of float
        Relative errors estimated so far; one is added where there is none.
    """

    def __init__(self, problem: Problem, piece: Piece, errors: list[float]) -> None:
        super().__init__(problem, piece)
        self._errors = errors

    def jvp(self, V: Tensor) -> Outputs:
        """Differences of the outputs, row by row."""
        rows = [self._difference(v, partial(outputs_at, self.problem, self.piece)) for v in V]
        if not rows:
            return tuple(t.new_zeros((0, *t.shape)) for t in self.y)
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def hvp(self, V: Tensor) -> Tensor:
        """Differences of the gradient, row by row."""

        def gradient(step: Tensor) -> Outputs:
            return (gradient_at(self.problem, self.piece, step),)

        return torch.stack([self._difference(v, gradient)[0] for v in V]) if len(V) else V

    def _difference(self, v: Tensor, function: Callable[[Tensor], Outputs]) -> Outputs:
        norm = float(self.problem.space.norms(v[None])[0])
        if norm == 0.0:
            return tuple(torch.zeros_like(t) for t in function(v))
        unit, h = v / norm, difference_step(self.problem)
        found = _central(function, unit, h)
        if not self._errors:
            self._errors.append(_gap(_central(function, unit, 2.0 * h), found) / 3.0)
        return tuple(t * norm for t in found)


def _central(function: Callable[[Tensor], Outputs], unit: Tensor, h: float) -> Outputs:
    ahead, behind = function(unit * h), function(unit * -h)
    return tuple((a - b) / (2.0 * h) for a, b in zip(ahead, behind, strict=True))


def _gap(rough: Outputs, fine: Outputs) -> float:
    off = sum(float((r - f).double().square().sum()) for r, f in zip(rough, fine, strict=True))
    size = sum(float(f.double().square().sum()) for f in fine)
    return float((off / size) ** 0.5) if size else 0.0


def difference_step(problem: Problem) -> float:
    """h = eps^(1/3) max(|theta|, 1), eps of the dtype that the differences are computed in."""
    flat = problem.parameters.flatten([e.parameter.detach() for e in problem.parameters])
    size = float(problem.space.norms(flat[None])[0])
    eps = float(torch.finfo(problem.parameters.dtype).eps)
    return float(eps ** (1.0 / 3.0)) * max(size, 1.0)
