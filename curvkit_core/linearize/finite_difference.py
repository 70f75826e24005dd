r"""Strategy `finite-difference`: central differences instead of second derivatives. Opt-in, and not exact.

.. math:: J v \approx \|v\|\,\frac{y(\theta + h\hat v) - y(\theta - h\hat v)}{2h}, \qquad
          \nabla^2\ell\,v \approx \|v\|\,\frac{g(\theta + h\hat v) - g(\theta - h\hat v)}{2h}, \quad \hat v = v/\|v\|.

v is normalised, so F(cv) = cF(v); the step :math:`h = \epsilon^{1/3}\max(\|\theta\|, 1)` balances truncation, O(h^2),
against rounding, O(eps/h). Parameters of fewer bits than float32 are displaced in a float32 copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.linearize.displaced import gradient_at, outputs_at
from curvkit_core.linearize.lean import LeanLinearization
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Problem

__all__ = ["FiniteDifferenceLinearization", "difference_step"]


class FiniteDifferenceLinearization(LeanLinearization):
    """See the module. J v costs two forwards, a Hessian product two gradients; J^T u is exact."""

    def jvp(self, V: Tensor) -> Outputs:
        """Differences of the outputs, row by row."""
        rows = [self._differences(v) for v in V]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def hvp(self, V: Tensor) -> Tensor:
        """Differences of the gradient, row by row."""
        rows = []
        for v in V:
            norm, step, h = self._step(v)
            if norm == 0.0:
                rows.append(torch.zeros_like(v))
                continue
            ahead, behind = gradient_at(self.problem, self.piece, step), gradient_at(self.problem, self.piece, -step)
            rows.append((ahead - behind) * (norm / (2.0 * h)))
        return torch.stack(rows)

    def _differences(self, v: Tensor) -> tuple[Tensor, ...]:
        norm, step, h = self._step(v)
        if norm == 0.0:
            return tuple(torch.zeros_like(t) for t in self.y)
        ahead, behind = outputs_at(self.problem, self.piece, step), outputs_at(self.problem, self.piece, -step)
        return tuple((a - b) * (norm / (2.0 * h)) for a, b in zip(ahead, behind, strict=True))

    def _step(self, v: Tensor) -> tuple[float, Tensor, float]:
        norm = float(self.problem.space.norms(v[None])[0])
        h = difference_step(self.problem)
        return norm, v * (h / norm) if norm else v, h


def difference_step(problem: Problem) -> float:
    """h = eps^(1/3) max(|theta|, 1), eps of the dtype that the differences are computed in."""
    flat = problem.parameters.flatten([e.parameter.detach() for e in problem.parameters])
    size = float(problem.space.norms(flat[None])[0])
    eps = float(torch.finfo(problem.parameters.dtype).eps)
    return float(eps ** (1.0 / 3.0)) * max(size, 1.0)
