"""A function of an operator times vectors, and how far Lanczos is from it."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["FunctionResult", "KrylovProjection", "KrylovResult"]


@frozen(kw_only=True, eq=False)
class KrylovProjection:
    r"""An operator on the Krylov space of one vector b, diagonalised: what any function of it needs.

    Parameters
    ----------
    ritz_values : Tensor, shape (m,), float64 on the CPU
        theta, ascending, without damping.
    coordinates : Tensor, shape (m, m), float64 on the CPU
        Of the Ritz vectors, columns, in the basis.
    coupling : float
        beta: the norm of what the last product left outside; 0.0 where the space is invariant.
    noise : float
        What the products were seen to miss of symmetry, in the operator's unit: their rounding.
    scale : float
        A lower bound on the operator's norm.
    norm : float
        Of b.
    """

    ritz_values: Tensor
    coordinates: Tensor
    coupling: float
    noise: float
    scale: float
    norm: float


@frozen(kw_only=True, eq=False)
class KrylovResult(ShowsItself):
    """Krylov spaces of one or several vectors, from which functions of the operator are had with no further product.

    Parameters
    ----------
    projections : tuple of KrylovProjection
        One a right-hand side.
    bases : tuple of Tensor
        Their orthonormal rows, (m, n) each.
    damping : float
        To be added to the Ritz values.
    single : bool
        Whether the right-hand side was one vector.
    num_matvecs : int
        Products used.
    seed : int or None
        Of the right-hand side; None where it was given.
    info : ResultInfo or None
        Filled in by the driver.
    """

    projections: tuple[KrylovProjection, ...]
    bases: tuple[Tensor, ...]
    damping: float
    single: bool
    num_matvecs: int
    seed: int | None = None
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class FunctionResult(ShowsItself):
    r"""Rows :math:`f(A + \delta I)\,b_i` by Lanczos, with an estimate of the error of each.

    Parameters
    ----------
    value : Tensor, shape (n,) or (r, n)
        As the right-hand sides were given; NaN in rows that have no value.
    errors : Tensor, shape (r,), float64 on the CPU
        Estimates from above of :math:`\|f(A + \delta I)\,b_i - \text{value}_i\|_2`; inf where nothing is known.
    quadratic_forms : Tensor, shape (r,), float64 on the CPU
        :math:`b_i^\top f(A + \delta I)\,b_i`, by the Gauss rule of the same steps.
    converged : Tensor, shape (r,), bool
        Whether the error came below the tolerance that was asked for, or to rounding where none was.
    status : tuple of str
        One a right-hand side: ``"converged"``; ``"steps"``: all steps were made first; ``"max_matvecs"``: a budget was
        spent first; ``"outside"``: f is not defined at a Ritz value, ``lowest`` or zero: pass a damping above
        -``lowest``; ``"overflow"``: f is not finite at one.
    lowest, highest : Tensor, shape (r,), float64 on the CPU
        The ends of the Ritz values, damping included.
    function : str
        Its name; ``"callable"`` for one from Python.
    damping : float
        delta.
    steps : Tensor, shape (r,), int64
        Lanczos steps of each.
    bias_bound : float or None
        None: an iteration's error is in ``errors``.
    num_matvecs : int
        Products used.
    seed : int or None
        Of the right-hand side; None where it was given.
    error_covers : str
        In words, what ``errors`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    value: Tensor
    errors: Tensor
    quadratic_forms: Tensor
    converged: Tensor
    status: tuple[str, ...]
    lowest: Tensor
    highest: Tensor
    function: str
    damping: float = 0.0
    steps: Tensor
    bias_bound: float | None = None
    num_matvecs: int
    seed: int | None = None
    error_covers: str = (
        "the steps not made, if no eigenvalue lies outside the Ritz values by more than their residuals (for functions "
        "of psd operators: below the damping), and rounding as the basis shows it; sampling of the data is not included"
    )
    info: ResultInfo | None = None
