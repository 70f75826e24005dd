r"""Trace and diagonal exactly, where there are as many products as dimensions.

.. math:: \operatorname{tr} A = \sum_k q_k^\top A q_k, \qquad \operatorname{diag} A = \sum_k q_k \odot A q_k

for any orthonormal basis :math:`q_1, \dots, q_n`: n products instead of an estimate.
"""

from __future__ import annotations

from attrs import define
from torch import Tensor

from curvkit_core.algorithms.estimators.stopping import LEAST_SAMPLES
from curvkit_core.backends import VectorSpace

__all__ = ["WholeSpaceState", "spans_everything", "whole_space"]


@define(kw_only=True)
class WholeSpaceState:
    """Basis rows still to be multiplied; the sums over those that are."""

    seed: int
    pending: Tensor
    trace: float
    diagonal: Tensor
    num_matvecs: int = 0

    @property
    def complete(self) -> bool:
        """Whether the sums are over the whole basis."""
        return not len(self.pending)

    def take(self, space: VectorSpace, V: Tensor, AV: Tensor) -> WholeSpaceState:
        """Add the products AV of the rows V to the sums."""
        for forms, row in zip(space.dots(V, AV).tolist(), V * AV, strict=True):
            self.trace += forms
            self.diagonal = self.diagonal + row
        self.pending = self.pending[len(V) :]
        self.num_matvecs += len(V)
        return self


def spans_everything(n: int, num_matvecs: int, tol: float | None) -> bool:
    """Whether the exact answer costs no more than the estimate: with a tolerance, than the estimate's first look."""
    return n <= num_matvecs and (tol is None or n <= LEAST_SAMPLES)


def whole_space(space: VectorSpace, probes: str, seed: int) -> WholeSpaceState:
    """Begin with the basis that n random vectors give: n vectors of length n, and n is at most the budget."""
    basis, _ = space.orthonormalize(space.random(probes, seed, 0, space.n))
    return WholeSpaceState(seed=seed, pending=basis, trace=0.0, diagonal=space.zeros(1)[0])
