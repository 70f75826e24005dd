r"""The condition number :math:`\max_i|\lambda_i| / \min_i|\lambda_i|` of :math:`A + \delta I`: both ends by Lanczos.

Ritz values lie inside the spectrum, so their ratio bounds it from below, whatever has converged; their residuals bound
it from above where the end of least magnitude has converged and is not zero to them.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.eigsh import Eigsh
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import ConditionResult

__all__ = ["ConditionNumber", "condition_number"]


@define(kw_only=True)
class ConditionNumberState:
    """That of the eigensolver for `k` pairs, one from each end."""

    inner: Any
    k: int


@frozen(kw_only=True)
class ConditionNumber:
    """The condition number of a symmetric operator. Holds `ncv` + 1 vectors.

    Parameters
    ----------
    damping : float, at least 0
        delta: added to the operator's diagonal.
    tol : float, above 0
        An end has converged when its residual is below `tol` times its magnitude, or at rounding level.
    ncv : int or None
        Vectors in the basis; None: 40, at most n.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the start vector; None draws one and records it.
    """

    needs_symmetric = True

    damping: float = field(default=0.0, validator=validators.ge(0.0))
    tol: float = field(default=1e-2, validator=validators.gt(0.0))
    ncv: int | None = field(default=None, validator=validators.optional(validators.ge(3)))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> ConditionNumberState:
        """As the eigensolver."""
        k = min(2, space.n)
        return ConditionNumberState(inner=self._eigsh(k).init(space, start=start), k=k)

    def ask(self, state: ConditionNumberState, max_rows: int) -> Tensor | None:
        """As the eigensolver."""
        return self._eigsh(state.k).ask(state.inner, max_rows)

    def tell(self, space: VectorSpace, state: ConditionNumberState, V: Tensor, AV: Tensor) -> ConditionNumberState:
        """As the eigensolver, on the damped operator: convergence is relative to its eigenvalues."""
        state.inner = self._eigsh(state.k).tell(space, state.inner, V, AV.add(V, alpha=self.damping))
        return state

    def result(self, space: VectorSpace, state: ConditionNumberState) -> ConditionResult:
        """The interval from the pairs so far; before the first product it is everything."""
        eig = self._eigsh(state.k).result(space, state.inner)
        found = len(eig.eigenvalues)
        if found:
            at = [0, found - 1]
            ends, residuals, converged = eig.eigenvalues[at], eig.residuals[at], eig.converged[at]
        else:
            ends = torch.full((2,), math.nan, dtype=torch.float64)
            residuals, converged = torch.full_like(ends, math.inf), torch.zeros(2, dtype=torch.bool)
        whole = found == space.n
        status, estimate, lower, upper = _interval(ends, residuals, converged, found > 1, whole)
        return ConditionResult(
            estimate=estimate,
            lower=lower,
            upper=upper,
            status=status,
            converged=bool(converged.all()) and status == "converged",
            ends=ends,
            residuals=residuals,
            damping=self.damping,
            num_matvecs=eig.num_matvecs,
            seed=eig.seed,
        )

    def progress(self, state: ConditionNumberState) -> Progress:
        """As the eigensolver."""
        return self._eigsh(state.k).progress(state.inner)

    def _eigsh(self, k: int) -> Eigsh:
        # twice the default's: the small end of a wide spectrum converges slowly
        return Eigsh(
            k=k,
            which="BE",
            tol=self.tol,
            ncv=40 if self.ncv is None else self.ncv,
            max_matvecs=self.max_matvecs,
            seed=self.seed,
        )


def _interval(
    ends: Tensor, residuals: Tensor, converged: Tensor, both: bool, whole: bool
) -> tuple[str, float, float, float]:
    """Status, estimate and bounds from the ends' Ritz values, residuals and flags; `whole`: these are all there are."""
    if not both and not whole:
        return "lower-bound", 1.0, 1.0, math.inf
    near, far = (int(i) for i in ends.abs().argsort(stable=True))
    small, large = float(ends[near].abs()), float(ends[far].abs())
    doubt, wide = float(residuals[near]), float(residuals[far])
    # a Ritz value lies inside the spectrum but for rounding, which a converged residual holds
    lower = max(1.0, (large - wide) / (small + doubt)) if small + doubt > 0.0 else 1.0
    if bool(converged[near]) and small <= doubt:
        return "singular", math.inf, lower, math.inf
    if not whole and float(ends[0]) < -float(residuals[0]) and float(ends[1]) > float(residuals[1]):
        return "indefinite", lower, lower, math.inf
    if not bool(converged.all()) or small <= doubt:
        return "lower-bound", lower, lower, math.inf
    return "converged", large / small, lower, (large + wide) / (small - doubt)


def condition_number(
    op: CurvatureOperator,
    *,
    damping: float = 0.0,
    tol: float = 1e-2,
    ncv: int | None = None,
    max_matvecs: int = 1000,
    seed: int | None = None,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> ConditionResult:
    r"""Estimate :math:`\kappa = \max_i|\lambda_i| / \min_i|\lambda_i|` of :math:`A + \delta I`, between bounds [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    damping : float, at least 0
        delta.
    tol : float, above 0
        An end of the spectrum has converged when its residual is below `tol` times its magnitude, or at rounding level.
    ncv : int or None
        Vectors in the basis; None: 40, at most n. Memory is ncv + 3 vectors.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the start vector; None draws one and records it.
    start : Tensor, shape (n,), or None
        A start vector of your own.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    ConditionResult
        An estimate between bounds, with a status: the small end of a spectrum that reaches down to zero need not
        converge, and then only the lower bound holds. Damping makes it known.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    Notes
    -----
    The eigenvalue of least magnitude of an indefinite operator lies inside its spectrum and is not looked for: the
    status says so, and ``lower`` holds all the same.

    References
    ----------
    .. [1] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616 (thick-restart Lanczos).
    """
    algorithm = ConditionNumber(damping=damping, tol=tol, ncv=ncv, max_matvecs=max_matvecs, seed=seed)
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: ConditionResult = run(algorithm, op, inputs=inputs, **driver)
    return result
