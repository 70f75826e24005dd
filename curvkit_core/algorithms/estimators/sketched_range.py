r"""An orthonormal basis Q of a sketch :math:`Y = A\Omega` and its image :math:`Z = AQ`: what XTrace and XDiag share.

It grows by stages, and each stage uses all products of those before: its sketch is orthogonalised against the basis,
and only the new basis vectors are multiplied. Test vectors are drawn again when they are needed, never kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import define
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.estimators.stopping import next_look
from curvkit_core.backends import VectorSpace

__all__ = ["SketchedRange", "sketched_range"]

_OVERLAP = 100.0  # times eps: rows that overlap with the basis by more are orthogonalised again


@define(kw_only=True)
class SketchedRange:
    """Q in `basis`, after `stage` rows of it the sketch of the present stage until that is through; Z in `image`.

    The first `stage` rows of both belong together, and to as many test vectors; `triangle` is Q^T Y. Where `limit`
    leaves no room for a range, `image` has no room either, and the sketch is all there is.
    """

    seed: int
    probes: str
    limit: int
    basis: Basis
    image: Basis
    triangle: Tensor
    stage: int
    target: int
    pending: Tensor
    num_matvecs: int

    def take(self, space: VectorSpace, AV: Tensor) -> bool:
        """Take the products of the first pending rows in; whether a stage is through, with nothing pending then."""
        self.num_matvecs += len(AV)
        self.pending = self.pending[len(AV) :]
        sketching = self.basis.size < self.target
        (self.basis if sketching else self.image).append(AV)
        if len(self.pending):
            return False
        if self.basis.size < self.target:
            self.pending = self._draw(space, self.basis.size, self.target)
            return False
        if not self.image.capacity:
            return False
        if sketching:
            self._orthonormalize(space)
        if self.image.size < self.target:
            high = min(self.image.size + space.comfortable_rows(), self.target)
            self.pending = self.basis.rows(space, self.image.size, high)
            return False
        self.stage = self.target
        return True

    def grow(self, space: VectorSpace, tol: float | None) -> None:
        """Begin the next stage, if there is room for one."""
        self.target = next_look(self.stage, self.limit, tol)
        self.pending = self._draw(space, self.stage, self.target)

    def tests(self, space: VectorSpace, count: int) -> Iterator[tuple[int, Tensor]]:
        """The first `count` test vectors, some at a time, with the number of the first."""
        for low in range(0, count, space.comfortable_rows()):
            yield low, self._draw(space, low, count)

    @property
    def sketched(self) -> int:
        """How many rows of the first stage's sketch there are."""
        return self.basis.size if not self.stage else self.stage

    def sketch(self, space: VectorSpace, low: int, high: int) -> Tensor:
        """Rows of the first stage's sketch, from the basis where it is orthonormal by now."""
        if not len(self.triangle):
            return self.basis.rows(space, low, high)
        return self.basis.combine(space, self.triangle[:, low:high].mT)

    def _draw(self, space: VectorSpace, low: int, high: int) -> Tensor:
        return space.random(self.probes, self.seed, low, min(space.comfortable_rows(), high - low))

    def _orthonormalize(self, space: VectorSpace) -> None:
        """Put in the sketch's place the orthonormal rows that it adds to the basis."""
        old, new = self.stage, self.target
        Y = self.basis.rows(space, old, new)
        self.basis.truncate(old)
        Q = self._complement(space, Y)
        triangle = torch.zeros((new, new), dtype=torch.float64)
        triangle[:old, :old] = self.triangle
        triangle[:old, old:] = self.basis.gram(space, Y).mT
        triangle[old:, old:] = space.gram(Q, Y)
        self.triangle = triangle
        self.basis.append(Q)

    def _complement(self, space: VectorSpace, Y: Tensor) -> Tensor:
        """Orthonormal rows, orthogonal to the basis, that span with it what Y spans with it."""
        if not self.basis.size:
            return space.orthonormalize(Y)[0]
        Q = self._freed(space, Y.clone())
        for attempt in range(4):
            overlap = self.basis.gram(space, Q).norm(dim=1)
            if float(overlap.max()) <= _OVERLAP * space.eps:
                break
            # Rows that the basis spans are rounding by now, or zero, and QR gives them any direction, also one in the
            # basis: another in their place. It adds a direction that A's range does not have, which does no harm.
            lost = (overlap > 0.5).nonzero()[:, 0].tolist()
            for row in lost:
                Q[row : row + 1] = space.random("gaussian", self.seed, -1 - attempt * self.limit - row, 1)
            Q = self._freed(space, Q)
        return Q

    def _freed(self, space: VectorSpace, W: Tensor) -> Tensor:
        for _ in range(2):  # twice: one pass leaves eps |w| of the basis in w
            self.basis.subtract(space, self.basis.gram(space, W), W)
        return space.orthonormalize(W)[0]


def sketched_range(space: VectorSpace, *, probes: str, seed: int, num_matvecs: int, tol: float | None) -> SketchedRange:
    """Begin: half of the products for the sketch and half for the range; below 4 (or n = 1), a sketch alone."""
    half = min(num_matvecs // 2, space.n)
    limit = half if half > 1 else num_matvecs
    state = SketchedRange(
        seed=seed,
        probes=probes,
        limit=limit,
        basis=Basis.allocate(space, limit),
        image=Basis.allocate(space, half if half > 1 else 0),
        triangle=torch.zeros((0, 0), dtype=torch.float64),
        stage=0,
        target=0,
        pending=space.zeros(0),
        num_matvecs=0,
    )
    state.grow(space, tol)
    return state
