"""Damped linear systems, by the solver that is named."""

from __future__ import annotations

from typing import Any, Unpack

import attrs
from attrs import field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.algorithms.solves.cg import ConjugateGradients
from curvkit_core.algorithms.solves.minres import Minres
from curvkit_core.algorithms.solves.preconditioner import Preconditioner
from curvkit_core.algorithms.solves.right_hand_sides import RIGHT_HAND_SIDES, drawn
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import SolveResult

__all__ = ["METHODS", "Solve", "solve"]

METHODS: dict[str, type[ConjugateGradients] | type[Minres]] = {"cg": ConjugateGradients, "minres": Minres}


@attrs.define(kw_only=True)
class SolveState:
    """The solver's own, and the seed of the right-hand side, None where it was given."""

    inner: Any
    seed: int | None


@frozen(kw_only=True)
class Solve:
    """Damped linear systems, several right-hand sides in lockstep.

    Parameters
    ----------
    method : {"cg", "minres"}
        Conjugate gradients for positive definite operators, MINRES for any symmetric one.
    damping : float, at least 0
        delta: added to the operator's diagonal.
    tol : float, above 0
        A system is solved when its residual's norm is at most `tol` times that of b.
    max_matvecs : int, at least 1
        Products after which it stops, those for all right-hand sides together.
    rhs : {"random"}
        The right-hand side where none is given, as in a run file: Gaussian.
    seed : int or None
        Of that; None draws one and records it.
    """

    needs_symmetric = True

    method: str = field(default="cg", validator=validators.in_(tuple(METHODS)))
    damping: float = field(default=0.0, validator=validators.ge(0.0))
    tol: float = field(default=1e-6, validator=validators.gt(0.0))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    rhs: str = field(default="random", validator=validators.in_(RIGHT_HAND_SIDES))
    seed: int | None = field(default=None, validator=is_seed)

    def init(
        self,
        space: VectorSpace,
        *,
        b: Tensor | None = None,
        start: Tensor | None = None,
        preconditioner: Preconditioner | None = None,
    ) -> SolveState:
        """As the solver; without b for a random one."""
        b, seed = drawn(space, b, self.rhs, self.seed)
        return SolveState(inner=self._solver.init(space, b=b, start=start, preconditioner=preconditioner), seed=seed)

    def ask(self, state: SolveState, max_rows: int) -> Tensor | None:
        """As the solver."""
        return self._solver.ask(state.inner, max_rows)

    def tell(self, space: VectorSpace, state: SolveState, V: Tensor, AV: Tensor) -> SolveState:
        """As the solver."""
        state.inner = self._solver.tell(space, state.inner, V, AV)
        return state

    def result(self, space: VectorSpace, state: SolveState) -> SolveResult:
        """As the solver."""
        return attrs.evolve(self._solver.result(space, state.inner), seed=state.seed)

    def progress(self, state: SolveState) -> Progress:
        """As the solver."""
        return self._solver.progress(state.inner)

    @property
    def _solver(self) -> ConjugateGradients | Minres:
        return METHODS[self.method](tol=self.tol, max_matvecs=self.max_matvecs, damping=self.damping)


def solve(
    op: CurvatureOperator,
    b: Tensor | None = None,
    *,
    method: str = "cg",
    damping: float = 0.0,
    tol: float = 1e-6,
    max_matvecs: int = 1000,
    rhs: str = "random",
    seed: int | None = None,
    start: Tensor | None = None,
    preconditioner: Preconditioner | None = None,
    **driver: Unpack[DriverOptions],
) -> SolveResult:
    r"""Solve :math:`(A + \delta I)x = b`, one or several right-hand sides, by conjugate gradients [1]_ or MINRES [2]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    b : Tensor, shape (n,) or (r, n), or None
        Right-hand sides, a row each; None: one is drawn, see `rhs`.
    method : {"cg", "minres"}
        Conjugate gradients need A with the damping positive definite: a direction that shows otherwise ends its system
        with the status ``"breakdown"``; they hold 4 vectors a right-hand side. MINRES takes any symmetric operator, and
        tells a singular one with b outside its range (``"incompatible"``); it holds 7.
    damping : float, at least 0
        delta.
    tol : float, above 0
        A system is solved when its residual's norm is at most `tol` times that of b.
    max_matvecs : int, at least 1
        Products after which it stops, those for all right-hand sides together.
    rhs : {"random"}
        What b is where it is not given: Gaussian.
    seed : int or None
        Of that; None draws one and records it.
    start : Tensor, shaped as `b`, or None
        Where to begin; None: at zero. Costs one product a right-hand side.
    preconditioner : Preconditioner or None
        A positive definite approximation of :math:`A + \delta I`, for instance
        ``NystromPreconditioner.of(nystrom(op, rank=50), damping=damping)``.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    SolveResult
        ``solution`` shaped as `b`; a residual, a status and a flag for each right-hand side. One that is "converged"
        was verified by a product.

    Raises
    ------
    ValueError
        If the operator is not symmetric, an option is out of range, or a shape does not fit.

    Notes
    -----
    The error falls per product by :math:`(\sqrt\kappa - 1)/(\sqrt\kappa + 1)`, kappa the condition number of
    :math:`A + \delta I`, or faster where eigenvalues cluster; for indefinite operators by as much in two products, with
    kappa in place of its root. A solution of MINRES for an incompatible system makes the residual smallest; it need not
    be the shortest such.

    References
    ----------
    .. [1] Hestenes, Stiefel, J. Res. Natl. Bur. Stand. 49(6), 1952, 409-436.
    .. [2] Paige, Saunders, SIAM J. Numer. Anal. 12(4), 1975, 617-629.
    """
    algorithm = Solve(method=method, damping=damping, tol=tol, max_matvecs=max_matvecs, rhs=rhs, seed=seed)
    given = {"b": b, "start": start, "preconditioner": preconditioner}
    result: SolveResult = run(algorithm, op, inputs={k: v for k, v in given.items() if v is not None}, **driver)
    return result
