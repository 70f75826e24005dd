r"""The spectral norm :math:`\|A\|_2`: the largest eigenvalue in magnitude, by thick-restart Lanczos.

For an operator that is not symmetric, that of :math:`A^\top A`, whose root it is.
"""

from __future__ import annotations

from typing import Any, Unpack

from attrs import evolve, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.eigsh import Eigsh
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.operators.algebra import ProductOperator
from curvkit_core.operators.linear_map import LinearMap
from curvkit_core.results.types import SpectralNormResult

__all__ = ["SpectralNorm", "spectral_norm"]


@frozen(kw_only=True)
class SpectralNorm:
    """The spectral norm of a symmetric operator. Holds as many vectors as Eigsh with k = 1: 24.

    Parameters
    ----------
    tol : float, at least 0
        Converged when the residual is below `tol` times the norm, or at rounding level.
    ncv : int or None
        Vectors in the basis; None: 21, at most n.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own.
    seed : int or None
        Of the start vector; None draws one and records it.
    """

    needs_symmetric = True

    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    ncv: int | None = field(default=None, validator=validators.optional(validators.ge(2)))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> Any:
        """As Eigsh."""
        return self._solver.init(space, start=start)

    def ask(self, state: Any, max_rows: int) -> Tensor | None:
        """As Eigsh."""
        return self._solver.ask(state, max_rows)

    def tell(self, space: VectorSpace, state: Any, V: Tensor, AV: Tensor) -> Any:
        """As Eigsh."""
        return self._solver.tell(space, state, V, AV)

    def finish(self, space: VectorSpace, state: Any) -> Any:
        """As Eigsh."""
        return self._solver.finish(space, state)

    def result(self, space: VectorSpace, state: Any) -> SpectralNormResult:
        """The best pair so far; NaN before the first product."""
        pair = self._solver.result(space, state)
        found = len(pair.eigenvalues) > 0
        value = float(pair.eigenvalues[0]) if found else float("nan")
        return SpectralNormResult(
            estimate=abs(value),
            residual=float(pair.residuals[0]) if found else float("inf"),
            vector=pair.eigenvectors[0] if found else space.zeros(1)[0],
            eigenvalue=value,
            converged=found and bool(pair.converged[0]),
            status=pair.status,
            num_matvecs=pair.num_matvecs,
            seed=pair.seed,
        )

    def progress(self, state: Any) -> Progress:
        """As Eigsh."""
        return self._solver.progress(state)

    @property
    def _solver(self) -> Eigsh:
        return Eigsh(
            k=1,
            which="LM",
            tol=self.tol,
            ncv=self.ncv,
            max_matvecs=self.max_matvecs,
            basis_storage=self.basis_storage,
            basis_dtype=self.basis_dtype,
            seed=self.seed,
        )


def spectral_norm(
    op: LinearMap,
    *,
    tol: float = 1e-4,
    ncv: int | None = None,
    max_matvecs: int = 1000,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    seed: int | None = None,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> SpectralNormResult:
    r"""Spectral norm :math:`\|A\|_2 = \max_v \|A v\| / \|v\|`, with its residual.

    Parameters
    ----------
    op : CurvatureOperator or LinearMap, shape (m, n)
        Not symmetric, or not square: its transpose must be known.
    tol : float, at least 0
        Converged when the residual is below `tol` times the norm, or at rounding level.
    ncv : int or None
        Vectors in the basis; None: 21, at most n. Memory is ncv + 3 vectors.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not; those with the transpose count, too.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own.
    seed : int or None
        Of the start vector; None draws one and records it.
    start : Tensor, shape (n,), or None
        A start vector of your own.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    SpectralNormResult

    Raises
    ------
    ValueError
        If `op` is not symmetric and its transpose is not known, or an option is out of range.

    Notes
    -----
    Where A is not symmetric the products are those of A^T A, whose small singular values drown in rounding; the norm
    does not need them.
    """
    if getattr(op, "symmetric", False) and isinstance(op, CurvatureOperator):
        algorithm = SpectralNorm(
            tol=tol, ncv=ncv, max_matvecs=max_matvecs, basis_storage=basis_storage, basis_dtype=basis_dtype, seed=seed
        )
        inputs: dict[str, Any] = {} if start is None else {"start": start}
        result: SpectralNormResult = run(algorithm, op, inputs=inputs, **driver)
        return result
    flipped = op.transposed()
    if flipped is None:
        msg = (
            f"the spectral norm of {op!r} needs its transpose, which is not known: expected a symmetric operator, or "
            "one with a method transposed(). A LambdaOperator takes adjoint=."
        )
        raise ValueError(msg)
    if max_matvecs < 2:
        msg = f"max_matvecs={max_matvecs}: expected at least 2, a product with A and one with its transpose."
        raise ValueError(msg)
    squared = ProductOperator(flipped, op)
    squared.symmetric = squared.deterministic  # also where transposed() gives a new object each time
    found = spectral_norm(
        squared,
        tol=tol,
        ncv=ncv,
        max_matvecs=max_matvecs // 2,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
        seed=seed,
        start=start,
        **driver,
    )
    return _root(found, op)


def _root(found: SpectralNormResult, op: LinearMap) -> SpectralNormResult:
    """From A^T A to A: |sigma' - sigma| = |lambda' - lambda| / (sigma' + sigma) <= residual / sigma."""
    sigma = found.estimate**0.5
    info = found.info
    if info is not None:
        info = evolve(info, operator=type(op).__name__, num_matvecs=2 * info.num_matvecs)
    return evolve(
        found,
        estimate=sigma,
        residual=min(found.residual / sigma, found.residual**0.5) if sigma > 0.0 else found.residual**0.5,
        eigenvalue=None,
        num_matvecs=2 * found.num_matvecs,
        info=info,
    )
