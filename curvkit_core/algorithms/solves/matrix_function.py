r"""A function of a symmetric operator times a vector, :math:`f(A)b \approx \|b\|\,Q^\top f(T) e_1`, by Lanczos [1]_.

Q holds the orthonormal rows of the Krylov space of b, :math:`T = Q A Q^\top`. The basis is fully reorthogonalised, so
that T's functions are those of A; several right-hand sides have a space each and are multiplied together.

References
----------
.. [1] Saad, SIAM J. Numer. Anal. 29(1), 1992, 209-228.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import attrs
import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES, Basis
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.krylov import BREAKDOWN, free_from, three_term
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.algorithms.solves.function_values import FUNCTIONS, Evaluated, Function, evaluate
from curvkit_core.algorithms.solves.right_hand_sides import RIGHT_HAND_SIDES, drawn
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import FunctionResult, KrylovProjection, KrylovResult

__all__ = ["MatrixFunction", "matrix_function"]

_IS_FUNCTION: Any = validators.in_((*FUNCTIONS, None))
_OFTEN = 32  # so many steps are looked at one by one, later ones every eighth
_SELDOM = 8
_STEP_ROUNDING = 4.0  # times eps |A|: what the step leaves along the basis, seen are 0.5 to 2


@define(kw_only=True)
class MatrixFunctionState:
    """A basis a right-hand side, all multiplied, and the `rows` that follow; T's diagonals, (r, steps).

    `done` says whose space is large enough; `pending` lists the rows that the present round has still to multiply.
    """

    seed: int | None
    single: bool
    bases: tuple[Basis, ...]
    rows: Tensor
    alpha: Tensor
    beta: Tensor
    norms: Tensor
    noise: Tensor
    scale: Tensor
    done: Tensor
    pending: Tensor
    num_matvecs: int


@frozen(kw_only=True)
class MatrixFunction:
    """f(A + damping) b by Lanczos. Holds `steps` + 1 vectors a right-hand side.

    Parameters
    ----------
    function : {"sqrt", "inv-sqrt", "inverse", "log", "exp"} or None
        f; None: none, the result holds the Krylov spaces, for any f.
    damping : float, at least 0
        Added to the operator's diagonal.
    steps : int, at least 1
        Lanczos steps a right-hand side, at most n are made.
    tol : float or None
        Stop where the error is below `tol` times the value's norm; None: where it is down to rounding.
    basis_storage : {"device", "host", "disk"}
        Where the bases lie.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own.
    rhs : {"random"}
        The right-hand side where none is given, as in a run file: Gaussian.
    seed : int or None
        Of that; None draws one and records it.
    """

    needs_symmetric = True

    function: str | None = field(default="sqrt", validator=_IS_FUNCTION)
    damping: float = field(default=0.0, validator=validators.ge(0.0))
    steps: int = field(default=64, validator=validators.ge(1))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    rhs: str = field(default="random", validator=validators.in_(RIGHT_HAND_SIDES))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, b: Tensor | None = None) -> MatrixFunctionState:
        """Begin the spaces of the right-hand sides b, (r, n), or (n,) for one."""
        b, seed = drawn(space, b, self.rhs, self.seed)
        rows = space.check(b, "b").clone()
        norms = space.norms(rows)
        if not bool(torch.isfinite(norms).all()):
            number = int((~torch.isfinite(norms)).nonzero()[0])
            msg = f"right-hand side {number} has norm {float(norms[number])}: expected finite numbers."
            raise ValueError(msg)
        steps = min(self.steps, space.n)
        options: dict[str, Any] = {"storage": self.basis_storage, "dtype": self.basis_dtype}
        unit = rows / torch.where(norms > 0.0, norms, 1.0).to(rows)[:, None]
        return MatrixFunctionState(
            seed=seed,
            single=b.ndim == 1,
            bases=tuple(Basis.allocate(space, steps, **options) for _ in rows),
            rows=self._rounded(unit),
            alpha=torch.zeros((len(rows), steps), dtype=torch.float64),
            beta=torch.zeros((len(rows), steps), dtype=torch.float64),
            norms=norms,
            noise=torch.zeros_like(norms),
            scale=torch.zeros_like(norms),
            done=norms == 0.0,
            pending=(norms > 0.0).nonzero()[:, 0],
            num_matvecs=0,
        )

    def ask(self, state: MatrixFunctionState, max_rows: int) -> Tensor | None:
        """The newest basis vectors of the next right-hand sides."""
        rows = state.pending[:max_rows]
        return state.rows[rows.to(state.rows.device)] if len(rows) else None

    def tell(self, space: VectorSpace, state: MatrixFunctionState, V: Tensor, AV: Tensor) -> MatrixFunctionState:
        """One Lanczos step of each space."""
        for i, row, product in zip(state.pending[: len(V)].tolist(), V.split(1), AV.split(1), strict=True):
            self._extend(space, state, i, row, product)
        state.num_matvecs += len(V)
        state.pending = state.pending[len(V) :].clone()
        if not len(state.pending):
            state.pending = (~state.done).nonzero()[:, 0]
        return state

    def result(self, space: VectorSpace, state: MatrixFunctionState) -> FunctionResult | KrylovResult:
        """The value from the spaces so far; with no function the spaces themselves."""
        projections = tuple(self._projection(state, i) for i in range(len(state.bases)))
        krylov = KrylovResult(
            projections=projections,
            bases=() if self.function else tuple(b.rows(space, 0, b.size).clone() for b in state.bases),
            damping=self.damping,
            single=state.single,
            num_matvecs=state.num_matvecs,
            seed=state.seed,
        )
        if self.function is None:
            return krylov
        function = FUNCTIONS[self.function]
        found = [self._evaluate(space, state, function, p) for p in projections]
        values = [
            basis.combine(space, e.coordinates[None]) if basis.size else space.zeros(1)
            for basis, e in zip(state.bases, found, strict=True)
        ]
        return _result(function, krylov, found, torch.cat(values), self.tol, min(self.steps, space.n))

    def progress(self, state: MatrixFunctionState) -> Progress:
        """Products; fewer than the total where a space closes or the tolerance is met."""
        total = state.num_matvecs + sum(
            basis.capacity - basis.size
            for basis, done in zip(state.bases, state.done.tolist(), strict=True)
            if not done
        )
        return Progress(done=state.num_matvecs, total=total, note=f"{int(state.done.sum())} of {len(state.bases)} done")

    def _extend(self, space: VectorSpace, state: MatrixFunctionState, i: int, row: Tensor, product: Tensor) -> None:
        basis, j = state.bases[i], state.bases[i].size
        known = torch.zeros(j, dtype=torch.float64)
        if j:
            known[j - 1] = state.beta[i, j - 1]
        w, alpha = three_term(space, basis, known, row, product)
        basis.append(row)
        taken, beta = free_from(space, basis, w)
        state.alpha[i, j] = alpha
        state.scale[i] = state.scale[i].clamp_min(math.hypot(alpha, float(known.norm()), beta))
        # by symmetry nothing was there to take: what is more than a step's own rounding is the products', seen in j of
        # n directions
        own = _STEP_ROUNDING * space.eps * float(state.scale[i])
        excess = math.sqrt(max(0.0, float(taken.norm()) ** 2 - own**2))
        state.noise[i] = state.noise[i].clamp_min(excess * (space.n / max(j, 1)) ** 0.5)
        closed = basis.size == space.n or beta <= BREAKDOWN * space.eps * float(state.scale[i])
        state.beta[i, j] = 0.0 if closed else beta
        if not closed:
            state.rows[i] = self._rounded(w / beta)[0]
        looked = j < _OFTEN or j % _SELDOM == 0
        enough = not closed and looked and self._enough(space, state, i)
        state.done[i] = closed or enough or basis.size == basis.capacity

    def _enough(self, space: VectorSpace, state: MatrixFunctionState, i: int) -> bool:
        """Whether more steps are of no use: the tolerance is met, or what they would change is rounding."""
        if self.function is None:
            return False
        e = self._evaluate(space, state, FUNCTIONS[self.function], self._projection(state, i))
        met = self.tol is not None and e.error <= self.tol * e.size
        return e.problem == "" and (met or e.truncation <= e.rounding)

    def _projection(self, state: MatrixFunctionState, i: int) -> KrylovProjection:
        m = state.bases[i].size
        off = state.beta[i, : max(m - 1, 0)]
        theta, S = torch.linalg.eigh(state.alpha[i, :m].diag() + off.diag(1) + off.diag(-1)) if m else (off, off[None])
        return KrylovProjection(
            ritz_values=theta,
            coordinates=S,
            coupling=float(state.beta[i, m - 1]) if m else 0.0,
            noise=float(state.noise[i]),
            scale=float(state.scale[i]),
            norm=float(state.norms[i]),
        )

    def _evaluate(
        self, space: VectorSpace, state: MatrixFunctionState, function: Function, projection: KrylovProjection
    ) -> Evaluated:
        return _evaluate(function, projection, self.damping, state.bases[0].eps(space))

    def _rounded(self, rows: Tensor) -> Tensor:
        """The rows as the basis stores them: that is what is multiplied."""
        return rows if self.basis_dtype is None else rows.to(getattr(torch, self.basis_dtype)).to(rows.dtype)


def _evaluate(function: Function, projection: KrylovProjection, damping: float, eps: float) -> Evaluated:
    """As :func:`evaluate`; for no steps nothing but 0 for b = 0 is known."""
    if len(projection.ritz_values):
        return evaluate(function, projection, damping, eps)
    error = 0.0 if projection.norm == 0.0 else math.inf
    empty = torch.empty(0, dtype=torch.float64)
    return Evaluated(coordinates=empty, quadratic_form=0.0, truncation=error, rounding=0.0)


def _result(
    function: Function, krylov: KrylovResult, found: list[Evaluated], values: Tensor, tol: float | None, steps: int
) -> FunctionResult:
    made = [len(p.ritz_values) for p in krylov.projections]
    converged = [not e.problem and (e.error <= tol * e.size if tol else e.truncation <= e.rounding) for e in found]
    status = []
    for e, good, m in zip(found, converged, made, strict=True):
        noisy = tol is not None and e.truncation <= e.rounding
        unfinished = "noise" if noisy else "steps" if m == steps else "max_matvecs"
        status.append(e.problem or ("converged" if good else unfinished))
    nan = torch.full((1,), float("nan"), dtype=torch.float64)
    theta = [p.ritz_values + krylov.damping if m else nan for p, m in zip(krylov.projections, made, strict=True)]
    return FunctionResult(
        value=values[0] if krylov.single else values,
        errors=torch.tensor([e.error for e in found], dtype=torch.float64),
        quadratic_forms=torch.tensor([e.quadratic_form for e in found], dtype=torch.float64),
        converged=torch.tensor(converged),
        status=tuple(status),
        lowest=torch.stack([t.min() for t in theta]),
        highest=torch.stack([t.max() for t in theta]),
        function=function.name,
        damping=krylov.damping,
        steps=torch.tensor(made),
        num_matvecs=krylov.num_matvecs,
        seed=krylov.seed,
        info=krylov.info,
    )


def matrix_function(
    op: CurvatureOperator,
    b: Tensor | None = None,
    *,
    function: str | Callable[[Tensor], Tensor] = "sqrt",
    damping: float = 0.0,
    steps: int = 64,
    tol: float | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    rhs: str = "random",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> FunctionResult:
    r"""Apply a function of a symmetric operator: :math:`f(A + \delta I)\,b`, by Lanczos [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    b : Tensor, shape (n,) or (r, n), or None
        Right-hand sides, a row each; None: one is drawn.
    function : {"sqrt", "inv-sqrt", "inverse", "log", "exp"}, or callable
        f. A callable takes float64 tensors elementwise; it is applied when all steps are made, with the bases in hand:
        twice the memory, and no `tol`.
    damping : float, at least 0
        delta.
    steps : int, at least 1
        Lanczos steps a right-hand side, at most n are made. Memory is `steps` + 1 vectors a right-hand side.
    tol : float or None
        Stop where the error is below `tol` times the value's norm; None: where it is down to rounding.
    basis_storage : {"device", "host", "disk"}
        Where the bases lie.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own.
    rhs : {"random"}
        What b is where it is not given: Gaussian.
    seed : int or None
        Of that; None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    FunctionResult
        ``value`` shaped as `b`, with an error, a status and a flag for each right-hand side.

    Raises
    ------
    ValueError
        If the operator is not symmetric, an option is out of range, or `tol` comes with a callable.

    Notes
    -----
    The error is bounded by :math:`\|b\|\beta\max|g|` over the interval of the Ritz values and their residuals, see
    :mod:`curvkit_core.algorithms.solves.function_values`; infinite where that interval reaches a pole of f. For
    functions that are defined for psd operators it ends at `damping`, as long as no Ritz value lies below. The square
    root of a matrix with a zero eigenvalue is right to the square root of rounding only, and the error says so.

    References
    ----------
    .. [1] Saad, SIAM J. Numer. Anal. 29(1), 1992, 209-228.
    """
    named = function if isinstance(function, str) else None
    if named is None and tol is not None:
        msg = f"tol={tol!r} with a callable: expected tol=None, all steps are made first. Pass steps, or a name."
        raise ValueError(msg)
    algorithm = MatrixFunction(
        function=named,
        damping=damping,
        steps=steps,
        tol=tol,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
        rhs=rhs,
        seed=seed,
    )
    result = run(algorithm, op, inputs={} if b is None else {"b": b}, **driver)
    if isinstance(result, FunctionResult):
        return result
    assert isinstance(result, KrylovResult)
    eps = op.space.eps if basis_dtype is None else max(op.space.eps, torch.finfo(getattr(torch, basis_dtype)).eps)
    assert not isinstance(function, str)
    called = Function(name="callable", fn=function)
    found = [_evaluate(called, p, damping, eps) for p in result.projections]
    values = [
        op.space.combine(e.coordinates[None], rows) if len(rows) else op.space.zeros(1)
        for e, rows in zip(found, result.bases, strict=True)
    ]
    made = _result(called, result, found, torch.cat(values), None, min(steps, op.n))
    info = made.info
    if info is not None:
        made = attrs.evolve(made, info=attrs.evolve(info, converged=bool(made.converged.all())))
    return made
