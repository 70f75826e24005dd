r"""Randomized block Krylov iteration: rank-k approximation from the span of :math:`A\Omega, A^3\Omega, ...`."""

from typing import ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge
from torch import Tensor

from curvkit_core.algorithms import Progress
from curvkit_core.backends import VectorSpace
from krylov_svd.result import SVDResult

GROW, IMAGE, MEASURE, DONE = "grow", "image", "measure", "done"


@frozen(kw_only=True, eq=False)
class KrylovState:
    """Three phases: grow the blocks, multiply their basis, measure the triplets' residuals.

    `rows` is multiplied now and `filled` of its products are in `image`; `blocks` is what the span is made of, `power`
    the power of A that `rows` holds. Then come the basis and its image, and the triplets.
    """

    phase: str
    rows: Tensor
    image: Tensor
    filled: int
    power: int
    blocks: Tensor
    values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor
    num_matvecs: int


@frozen(kw_only=True)
class BlockKrylovSVD:
    r"""The k largest singular triplets of a symmetric operator by randomized block Krylov iteration [1]_.

    Within :math:`(1 + \epsilon)` of the best rank-k approximation in the spectral norm for `depth` of order
    :math:`\log n/\sqrt\epsilon`, whatever the gaps between the singular values. A departure from the paper: each block
    is made orthonormal before the next product, which leaves the span as it is and keeps its digits. Costs
    (2 depth + 1) b + (depth + 1) b + k products for a block of b = k + oversample rows, and as many rows of memory as
    the second term, twice.

    Parameters
    ----------
    k : int, at least 1
        Triplets wanted, at most n.
    oversample : int, at least 0
        Further rows of the block.
    depth : int, at least 0
        q: the span holds A, A^3, ..., A^(2q+1) times the start block.
    seed : int
        Of the start block.

    References
    ----------
    .. [1] Musco and Musco, Randomized block Krylov methods for stronger and faster approximate singular value
       decomposition, NeurIPS 28, 2015: algorithm 2.
    """

    needs_symmetric: ClassVar[bool] = True

    k: int = field(default=6, validator=ge(1))
    oversample: int = field(default=4, validator=ge(0))
    depth: int = field(default=4, validator=ge(0))
    seed: int = 0

    def init(self, space: VectorSpace) -> KrylovState:
        """Draw the block; no product yet."""
        if self.k > space.n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {space.n}, the operator's size."
            raise ValueError(msg)
        rows, _ = space.orthonormalize(space.random("gaussian", self.seed, 0, min(self.k + self.oversample, space.n)))
        none = torch.zeros(0, dtype=torch.float64)
        return KrylovState(
            phase=GROW,
            rows=rows,
            image=torch.zeros_like(rows),
            filled=0,
            power=0,
            blocks=space.zeros(0),
            values=none,
            left=space.zeros(0),
            right=space.zeros(0),
            residuals=none,
            num_matvecs=0,
        )

    def ask(self, state: KrylovState, max_rows: int) -> Tensor | None:
        """Give the next rows of the block, the basis or the vectors v; None when all is measured."""
        return None if state.phase == DONE else state.rows[state.filled : state.filled + max_rows]

    def tell(self, space: VectorSpace, state: KrylovState, V: Tensor, AV: Tensor) -> KrylovState:
        """Keep the products; with the last row of a phase go on to the next."""
        filled = state.filled + len(V)
        state.image[state.filled : filled] = AV
        state = evolve(state, filled=filled, num_matvecs=state.num_matvecs + len(V))
        if filled < len(state.rows):
            return state
        return {GROW: self._grown, IMAGE: self._projected, MEASURE: self._measured}[state.phase](space, state)

    def _grown(self, space: VectorSpace, state: KrylovState) -> KrylovState:
        """Odd powers of A go into the span; with the last of them its basis is multiplied next."""
        block, _ = space.orthonormalize(state.image)
        power = state.power + 1
        blocks = torch.cat([state.blocks, block]) if power % 2 else state.blocks
        if power < 2 * self.depth + 1 and len(blocks) < space.n:
            return evolve(state, rows=block, image=torch.zeros_like(block), filled=0, power=power, blocks=blocks)
        basis, _ = space.orthonormalize(blocks[: space.n])
        return evolve(
            state, phase=IMAGE, rows=basis, image=torch.zeros_like(basis), filled=0, power=power, blocks=basis
        )

    def _projected(self, space: VectorSpace, state: KrylovState) -> KrylovState:
        """The singular vectors of Q A, rows: u = W Q and sigma v = W Q A from the eigenvectors W of its Gram matrix."""
        gram = space.gram(state.image, state.image)
        _, W = torch.linalg.eigh((gram + gram.mT) / 2)
        W = W.mT.flip(0)[: self.k].contiguous()
        left, right = space.combine(W, state.rows), space.combine(W, state.image)
        values = space.norms(right)  # not the Gram matrix's roots, which have half the digits
        order = values.argsort(descending=True)
        left, right, values = left[order], right[order], values[order]
        right = torch.where(values[:, None].to(right) > 0, right / values[:, None].to(right).clamp_min(1e-300), left)
        return evolve(
            state,
            phase=MEASURE,
            rows=right,
            image=torch.zeros_like(right),
            filled=0,
            values=values,
            left=left,
            right=right,
        )

    def _measured(self, space: VectorSpace, state: KrylovState) -> KrylovState:
        """|A v - sigma u|."""
        gaps = state.image - state.values[:, None].to(state.left) * state.left
        return evolve(state, phase=DONE, residuals=space.norms(gaps))

    def result(self, space: VectorSpace, state: KrylovState) -> SVDResult:
        """Give the triplets: none before the basis is multiplied, and with residuals inf before they are measured."""
        unknown = torch.full_like(state.values, torch.inf)
        return SVDResult(
            singular_values=state.values,
            left=state.left,
            right=state.right,
            residuals=state.residuals if state.phase == DONE else unknown,
            num_matvecs=state.num_matvecs,
            seed=self.seed,
        )

    def progress(self, state: KrylovState) -> Progress:
        """Count products; where the span fills the space it ends sooner."""
        block = len(state.rows) if state.phase == GROW else self.k + self.oversample
        total = (3 * self.depth + 2) * block + self.k
        return Progress(done=state.num_matvecs, total=max(total, state.num_matvecs), note=state.phase)
