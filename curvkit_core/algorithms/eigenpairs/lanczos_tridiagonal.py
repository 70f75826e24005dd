r"""The Lanczos factorisation [1]_ :math:`A Q^\top = Q^\top T + r e_m^\top`: T tridiagonal, the rows of Q orthonormal.

For those who want T and Q themselves. Eigenpairs: :func:`curvkit_core.eigsh`, in bounded memory; densities:
:func:`curvkit_core.spectral_density`.

References
----------
.. [1] Lanczos, J. Res. Natl. Bur. Stand. 45(4), 1950, 255-282.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.krylov import BREAKDOWN, free_from, start_row, three_term
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import LanczosResult

__all__ = ["LanczosTridiagonal", "lanczos_tridiagonal"]


@define(kw_only=True)
class LanczosState:
    """T's diagonals, the rows multiplied so far, and `residual` (1, n_local), over its `norm` the next row."""

    seed: int
    given_start: bool
    basis: Basis
    alpha: Tensor
    beta: Tensor
    residual: Tensor
    norm: float = 1.0
    scale: float = 0.0
    breakdown: bool = False


@frozen(kw_only=True)
class LanczosTridiagonal:
    """The Lanczos factorisation of a symmetric operator. Holds `steps` + 4 vectors.

    Parameters
    ----------
    steps : int, 1 to n
        Products, and rows of the basis; fewer where the Krylov space is exhausted before.
    reorthogonalize : {"full", "none"}
        Each row against all before it, or against the last two only: then it costs three vectors' work a step, and
        copies of converged eigenvalues (ghosts) appear in T.
    seed : int or None
        Of the start vector; None draws one and records it.
    """

    needs_symmetric = True

    steps: int = field(default=20, validator=validators.ge(1))
    reorthogonalize: str = field(default="full", validator=validators.in_(("full", "none")))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> LanczosState:
        """The start, normalised."""
        if self.steps > space.n:
            msg = (
                f"steps={self.steps} is out of range: expected 1 <= steps <= {space.n}, the operator's size. "
                "Pass a smaller steps."
            )
            raise ValueError(msg)
        seed = fresh_seed(self.seed)
        return LanczosState(
            seed=seed,
            given_start=start is not None,
            basis=Basis.allocate(space, self.steps, leading=self.steps),
            alpha=torch.zeros(self.steps, dtype=torch.float64),
            beta=torch.zeros(self.steps, dtype=torch.float64),
            residual=start_row(space, start, seed),
        )

    def ask(self, state: LanczosState, max_rows: int) -> Tensor | None:
        """The next row."""
        if state.breakdown or state.basis.size == self.steps:
            return None
        return state.residual / state.norm

    def tell(self, space: VectorSpace, state: LanczosState, V: Tensor, AV: Tensor) -> LanczosState:
        """One step of the three-term recurrence."""
        j = state.basis.size
        known = torch.zeros(j, dtype=torch.float64)
        if j:
            state.beta[j - 1] = known[j - 1] = state.norm
        w, alpha = three_term(space, state.basis, known, V, AV)
        state.basis.append(V)
        state.alpha[j] = alpha
        if self.reorthogonalize == "full":
            _, state.norm = free_from(space, state.basis, w)
        else:
            state.norm = float(space.norms(w)[0])
        state.scale = max(state.scale, math.hypot(alpha, float(known.norm()), state.norm))
        state.breakdown = state.norm <= BREAKDOWN * space.eps * state.scale
        state.residual = w
        return state

    def finish(self, space: VectorSpace, state: LanczosState) -> LanczosState:
        """Give the basis up as a tensor."""
        state.basis.release(space, state.basis.size)
        return state

    def result(self, space: VectorSpace, state: LanczosState) -> LanczosResult:
        """The factorisation so far."""
        m = state.basis.size
        return LanczosResult(
            alpha=state.alpha[:m].clone(),
            beta=state.beta[: max(m - 1, 0)].clone(),
            basis=state.basis.rows(space, 0, m),
            residual=state.residual[0],
            residual_norm=state.norm if m else math.nan,
            breakdown=state.breakdown,
            num_matvecs=m,
            seed=None if state.given_start else state.seed,
        )

    def progress(self, state: LanczosState) -> Progress:
        """Steps made."""
        return Progress(done=state.basis.size, total=self.steps)


def lanczos_tridiagonal(
    op: CurvatureOperator,
    start: Tensor | None = None,
    *,
    steps: int = 20,
    reorthogonalize: str = "full",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> LanczosResult:
    r"""Lanczos factorisation :math:`A Q^\top = Q^\top T + r e_m^\top` [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    start : Tensor, shape (n,), or None
        The first row of Q, up to its length; None: random.
    steps : int, 1 to n
        Products, and rows of the basis; fewer where the Krylov space is exhausted before. Memory is steps + 4 vectors.
    reorthogonalize : {"full", "none"}
        Each row against all before it, or against the last two only: cheaper, and with ghosts.
    seed : int or None
        Of the start vector; None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    LanczosResult
        ``alpha``, ``beta``, ``basis``, ``residual``; ``breakdown`` says that the Krylov space was exhausted.

    Raises
    ------
    ValueError
        If the operator is not symmetric, `steps` is out of range, or `start` is zero or of another length.

    Notes
    -----
    In exact arithmetic T does not depend on `reorthogonalize`. In floating point the recurrence holds to rounding in
    both; orthogonality of Q, and with it that T is a projection of A, holds with ``"full"`` only.

    References
    ----------
    .. [1] Lanczos, J. Res. Natl. Bur. Stand. 45(4), 1950, 255-282; Paige, J. Inst. Math. Appl. 18(3), 1976, 341-349.
    """
    algorithm = LanczosTridiagonal(steps=steps, reorthogonalize=reorthogonalize, seed=seed)
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: LanczosResult = run(algorithm, op, inputs=inputs, **driver)
    return result
