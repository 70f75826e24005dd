r"""Quadrature of the bulk with the outliers taken out: exact eigenpairs first, then Lanczos on what is left.

.. math:: \frac1n\sum_i\delta(t-\lambda_i) = \frac1n\sum_{i\le k}\delta(t-\lambda_i) + \frac{n-k}{n}\,E[\mu_{Pz}],
          \qquad P = I - U^\top U,

U the rows of the k eigenvectors found, each probe and each product orthogonal to them. In plain quadrature an outlier's
weight is a random number (u^T z)^2/n, and what it takes or gives is missing or left over in the bulk; here it is 1/n,
and no Lanczos step is spent on finding it again. For traces this reduction of the variance is studied in [1]_.

References
----------
.. [1] Gambhir, Stathopoulos, Orginos, SIAM J. Sci. Comput. 39(2), 2017, A532-A558.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, evolve, frozen
from torch import Tensor

from curvkit_core.algorithms.eigenpairs.eigsh import Eigsh
from curvkit_core.algorithms.protocol import Finishes, Progress
from curvkit_core.algorithms.seeds import fresh_seed
from curvkit_core.algorithms.spectra.lanczos_quadrature import LanczosQuadrature, LanczosQuadratureState, LanczosRules
from curvkit_core.backends import VectorSpace

__all__ = ["DeflatedQuadrature", "DeflatedRules"]

_TOL = 1e-4  # of an outlier; below it the shift it leaves is far below any width


@frozen(kw_only=True, eq=False)
class DeflatedRules:
    """Outliers and their residuals; rules of the rest (None: not begun) and its share of the eigenvalues."""

    outliers: Tensor
    residuals: Tensor
    bulk: LanczosRules | None
    bulk_share: float


@define(kw_only=True)
class DeflatedQuadratureState:
    """Phase "outliers" with the eigensolver's state, then "bulk" with the quadrature's (None: nothing is left)."""

    seed: int
    phase: str
    eigen: Any
    bulk: LanczosQuadratureState | None
    outliers: Tensor
    residuals: Tensor
    num_matvecs: int


@frozen(kw_only=True)
class DeflatedQuadrature:
    """Eigenpairs by `Eigsh`, then `LanczosQuadrature` on the rest; only converged pairs are taken out.

    Parameters
    ----------
    num_outliers : int
        Pairs looked for, at most n.
    which : str
        At which end, as :class:`curvkit_core.algorithms.Eigsh` has it.
    quadrature : LanczosQuadrature
        For the rest. The pairs may use as many products as it does.
    """

    needs_symmetric = True

    num_outliers: int
    which: str
    quadrature: LanczosQuadrature

    def init(self, space: VectorSpace) -> DeflatedQuadratureState:
        """Begin with the outliers, from a start that is independent of the probes."""
        seed = fresh_seed(self.quadrature.seed)
        # past the probes and those that stand in for them
        start = space.random("gaussian", seed, 2 * self.quadrature.num_probes, 1)
        none = torch.empty(0, dtype=torch.float64)
        return DeflatedQuadratureState(
            seed=seed,
            phase="outliers",
            eigen=self._eigsh(space.n).init(space, start=start),
            bulk=None,
            outliers=none,
            residuals=none,
            num_matvecs=0,
        )

    def ask(self, state: DeflatedQuadratureState, max_rows: int) -> Tensor | None:
        """As the phase has it."""
        if state.phase == "outliers":
            return self._eigsh().ask(state.eigen, max_rows)
        return None if state.bulk is None else self.quadrature.ask(state.bulk, max_rows)

    def tell(
        self, space: VectorSpace, state: DeflatedQuadratureState, V: Tensor, AV: Tensor
    ) -> DeflatedQuadratureState:
        """As the phase has it; after the outliers the rest."""
        state.num_matvecs += len(AV)
        if state.phase == "bulk":
            assert state.bulk is not None
            state.bulk = self.quadrature.tell(space, state.bulk, V, AV)
            return state
        eigsh = self._eigsh(space.n)
        state.eigen = eigsh.tell(space, state.eigen, V, AV)
        if eigsh.ask(state.eigen, 1) is not None:
            return state
        if isinstance(eigsh, Finishes):
            state.eigen = eigsh.finish(space, state.eigen)
        pairs = eigsh.result(space, state.eigen)
        state.eigen, state.phase = None, "bulk"
        state.outliers, state.residuals = pairs.eigenvalues[pairs.converged], pairs.residuals[pairs.converged]
        found = pairs.eigenvectors[pairs.converged.to(pairs.eigenvectors.device)]
        del pairs
        if len(found) < space.n:
            if len(found):
                found, _ = space.orthonormalize(found)
            state.bulk = evolve(self.quadrature, seed=state.seed).init(space, avoid=found)
        return state

    def result(self, space: VectorSpace, state: DeflatedQuadratureState) -> DeflatedRules:
        """Outliers once all are found, with the rules of the rest so far."""
        begun = state.bulk is not None and bool((state.bulk.sizes > 0).any())
        return DeflatedRules(
            outliers=state.outliers,
            residuals=state.residuals,
            bulk=self.quadrature.result(space, state.bulk) if begun and state.bulk is not None else None,
            bulk_share=1.0 - len(state.outliers) / space.n,
        )

    def progress(self, state: DeflatedQuadratureState) -> Progress:
        """Products; what the outliers take is not known before they are found."""
        if state.bulk is None:
            return Progress(done=state.num_matvecs, note=state.phase)
        inner = self.quadrature.progress(state.bulk)
        before = state.num_matvecs - state.bulk.num_matvecs
        total = None if inner.total is None else before + inner.total
        return Progress(done=before + inner.done, total=total, note=f"bulk, {inner.note}")

    def _eigsh(self, n: int | None = None) -> Eigsh:
        k = self.num_outliers if n is None else min(self.num_outliers, n)
        budget = max(self.quadrature.num_probes * self.quadrature.steps, 2 * k + 20)
        return Eigsh(
            k=k,
            which=self.which,
            tol=_TOL,
            max_matvecs=budget,
            basis_storage=self.quadrature.basis_storage,
            basis_dtype=self.quadrature.basis_dtype,
        )
