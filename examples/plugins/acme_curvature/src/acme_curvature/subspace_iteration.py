"""Randomized subspace iteration: Q becomes orth(A Q), and eigenpairs are read off by Rayleigh-Ritz."""

from typing import ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, gt
from torch import Tensor

from curvkit_core.algorithms import Progress
from curvkit_core.backends import VectorSpace
from curvkit_core.results import EigenResult


@frozen(kw_only=True, eq=False)
class SubspaceState:
    """Where an iteration stands: rows to multiply, what came back, and the pairs of the last whole round."""

    basis: Tensor
    image: Tensor
    filled: int
    rounds: int
    values: Tensor
    vectors: Tensor
    residuals: Tensor


@frozen(kw_only=True)
class SubspaceIteration:
    """The k eigenvalues largest in magnitude of a symmetric operator, by randomized subspace iteration [1]_.

    Parameters
    ----------
    k : int
        Eigenpairs wanted, at most n.
    oversample : int
        Further rows: the error falls with the ratio of eigenvalue k + oversample + 1 to eigenvalue k, a round.
    tol : float
        Stop when each residual norm is at most `tol` times the largest magnitude.
    max_rounds : int
        Rounds of k + oversample products each.
    seed : int
        Of the start vectors.

    References
    ----------
    .. [1] Halko, Martinsson and Tropp, SIAM Review 53(2), 2011, 217-288: algorithms 4.4 and 5.3.
    """

    needs_symmetric: ClassVar[bool] = True

    k: int = field(default=6, validator=ge(1))
    oversample: int = field(default=6, validator=ge(0))
    tol: float = field(default=1e-4, validator=gt(0.0))
    max_rounds: int = field(default=100, validator=ge(1))
    seed: int = 0

    def init(self, space: VectorSpace) -> SubspaceState:
        """Start from Gaussian rows; no product yet."""
        if self.k > space.n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {space.n}, the operator's size."
            raise ValueError(msg)
        rows = min(self.k + self.oversample, space.n)
        basis, _ = space.orthonormalize(space.random("gaussian", self.seed, 0, rows))
        return SubspaceState(
            basis=basis,
            image=space.zeros(rows),
            filled=0,
            rounds=0,
            values=torch.zeros(0, dtype=torch.float64),
            vectors=space.zeros(0),
            residuals=torch.zeros(0, dtype=torch.float64),
        )

    def ask(self, state: SubspaceState, max_rows: int) -> Tensor | None:
        """Give the next rows of the basis, or None when converged or out of rounds."""
        if state.rounds == self.max_rounds or (state.rounds > 0 and bool(self._converged(state).all())):
            return None
        return state.basis[state.filled : state.filled + max_rows]

    def tell(self, space: VectorSpace, state: SubspaceState, V: Tensor, AV: Tensor) -> SubspaceState:
        """Keep the products; after the last row of a round, take Ritz pairs and go on to orth(A Q)."""
        filled = state.filled + len(V)
        state.image[state.filled : filled] = AV
        if filled < len(state.basis):
            return evolve(state, filled=filled)
        projected = space.gram(state.basis, state.image)
        values, mixing = torch.linalg.eigh((projected + projected.mT) / 2)
        best = values.abs().argsort(descending=True)[: self.k]
        values, mixing = values[best], mixing[:, best].mT.contiguous()
        vectors = space.combine(mixing, state.basis)
        gaps = space.combine(mixing, state.image) - values[:, None].to(vectors) * vectors
        basis, _ = space.orthonormalize(state.image)
        return evolve(
            state,
            basis=basis,
            filled=0,
            rounds=state.rounds + 1,
            values=values,
            vectors=vectors,
            residuals=space.norms(gaps),
        )

    def result(self, space: VectorSpace, state: SubspaceState) -> EigenResult:
        """Give the pairs of the last whole round: none before the first."""
        return EigenResult(
            eigenvalues=state.values,
            eigenvectors=state.vectors,
            residuals=state.residuals,
            converged=self._converged(state),
            num_matvecs=self._products(state),
            seed=self.seed,
            which="LM",
        )

    def progress(self, state: SubspaceState) -> Progress:
        """Count products, up to the last round; it may converge sooner."""
        note = f"round {state.rounds}"
        if state.rounds:
            note += f", largest residual {state.residuals.max():.1e}"
        return Progress(done=self._products(state), total=self.max_rounds * len(state.basis), note=note)

    def _products(self, state: SubspaceState) -> int:
        return state.rounds * len(state.basis) + state.filled

    def _converged(self, state: SubspaceState) -> Tensor:
        """Whether each pair is known to the tolerance; on an operator that is zero, all are."""
        if state.rounds == 0:
            return torch.zeros(0, dtype=torch.bool)
        return state.residuals <= self.tol * state.values.abs().max()
