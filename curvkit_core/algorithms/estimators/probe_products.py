r"""Products :math:`Y = A\Omega` of test vectors, kept: what XNysTrace and XNysDiag share.

One phase, and it can be longer or shorter: every number of products gives an estimate. Test vectors are drawn again
when they are needed, never kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import define
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.estimators.leave_one_out import NystromLeftOut, nystrom_left_out
from curvkit_core.algorithms.estimators.stopping import next_look
from curvkit_core.backends import VectorSpace

__all__ = ["ProbeProducts", "probe_products"]


@define(kw_only=True)
class ProbeProducts:
    """Rows of `products` belong to test vectors 0, 1, ...; the error bar is looked at when there are `look` of them."""

    seed: int
    probes: str
    limit: int
    products: Basis
    look: int
    pending: Tensor

    def take(self, space: VectorSpace, AV: Tensor) -> bool:
        """Take the products of the first pending rows in; whether it is time for a look, with nothing pending then."""
        self.products.append(AV)
        self.pending = self.pending[len(AV) :]
        if len(self.pending):
            return False
        if self.products.size == self.look:
            return True
        self.pending = self._draw(space, self.products.size, self.look)
        return False

    def grow(self, space: VectorSpace, tol: float | None) -> None:
        """Go on to the next look, if there is one."""
        self.look = next_look(self.products.size, self.limit, tol)
        self.pending = self._draw(space, self.products.size, self.look)

    def tests(self, space: VectorSpace, first: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The test vectors that were multiplied, from `first` on, some at a time, with the number of the first."""
        for low in range(first, self.products.size, space.comfortable_rows()):
            yield low, self._draw(space, low, self.products.size)

    def test_gram(self, space: VectorSpace) -> Tensor:
        """Omega^T Omega."""
        k = self.products.size
        out = torch.zeros((k, k), dtype=torch.float64)
        for low, z in self.tests(space):
            for other, w in self.tests(space, low):
                block = space.gram(z, w)
                out[low : low + len(z), other : other + len(w)] = block
                out[other : other + len(w), low : low + len(z)] = block.mT
        return out

    def nystrom(self, space: VectorSpace) -> NystromLeftOut:
        """The Nystrom approximation from the products so far, one at least, with each left out."""
        K = torch.cat([self.products.gram(space, z) for _, z in self.tests(space)])
        return nystrom_left_out(K, space.eps)

    def gram_of(self, space: VectorSpace, root: Tensor, weights: Tensor | None = None) -> Tensor:
        """F^T F of F = Y root, whose columns are formed a few at a time; for weights (m, n): F^T diag(w) F, m of them.

        From Y's own Gram matrix it would have half the digits.
        """
        k, step = root.shape[1], space.comfortable_rows()
        out = torch.zeros((1 if weights is None else len(weights), k, k), dtype=torch.float64)
        for low in range(0, k, step):
            rows = self.products.combine(space, root[:, low : low + step].mT)
            for other in range(low, k, step):
                others = rows if other == low else self.products.combine(space, root[:, other : other + step].mT)
                for number, result in enumerate(out):
                    block = space.gram(rows if weights is None else rows * weights[number], others)
                    result[low : low + step, other : other + step] = block
                    result[other : other + step, low : low + step] = block.mT
        return out[0] if weights is None else out

    def _draw(self, space: VectorSpace, low: int, high: int) -> Tensor:
        return space.random(self.probes, self.seed, low, min(space.comfortable_rows(), high - low))


def probe_products(space: VectorSpace, *, probes: str, seed: int, num_matvecs: int, tol: float | None) -> ProbeProducts:
    """Begin with nothing multiplied: at most `num_matvecs` test vectors, and at most n."""
    limit = min(num_matvecs, space.n)
    state = ProbeProducts(
        seed=seed,
        probes=probes,
        limit=limit,
        products=Basis.allocate(space, limit),
        look=0,
        pending=space.zeros(0),
    )
    state.grow(space, tol)
    return state
