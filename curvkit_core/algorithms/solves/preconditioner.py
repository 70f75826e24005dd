r"""Preconditioners: cheap approximations M of an operator whose inverse is applied with tensors alone.

They are attrs classes of tensors, so that they can lie in the state of an algorithm, and in its checkpoint.

References
----------
.. [1] Frangella, Tropp, Udell, SIAM J. Matrix Anal. Appl. 44(2), 2023, 718-752.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from attrs import Attribute, field, frozen
from torch import Tensor

from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import NystromResult

__all__ = ["DiagonalPreconditioner", "NystromPreconditioner", "Preconditioner"]


@runtime_checkable
class Preconditioner(Protocol):
    """A symmetric positive definite M, known by the products of its inverse.

    An attrs class of tensors and numbers; no product of an operator is made in it.
    """

    def inverse_rows(self, space: VectorSpace, R: Tensor) -> Tensor:
        """M^-1 times each row of R: (k, n_local) in and out, in a tensor of its own; `R` must not be changed."""
        ...


def _is_positive(instance: Any, attribute: Attribute[Tensor], value: Tensor) -> None:
    """Check a tensor of finite numbers above zero: attrs validator."""
    wrong = ~(torch.isfinite(value) & (value > 0.0))
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0])
        msg = (
            f"{attribute.name}[{number}]={float(value[number]):.3g}: expected finite numbers above 0, since a "
            "preconditioner is positive definite. Pass a damping above 0."
        )
        raise ValueError(msg)


@frozen(kw_only=True, eq=False)
class DiagonalPreconditioner:
    """M = diag(d): a product of n multiplications. Holds one vector.

    Parameters
    ----------
    diagonal : Tensor, shape (n,)
        d, above 0: an operator's diagonal, with the damping of the system.

    Raises
    ------
    ValueError
        If an element is not a finite number above 0.
    """

    diagonal: Tensor = field(validator=_is_positive)

    def inverse_rows(self, space: VectorSpace, R: Tensor) -> Tensor:
        """R / d."""
        return R / space.check(self.diagonal, "diagonal")


@frozen(kw_only=True, eq=False)
class NystromPreconditioner:
    r""":math:`M = \frac{1}{\lambda_r + \mu} U^\top (\Lambda + \mu)\, U + (I - U^\top U)` [1]_, rows U orthonormal.

    Parameters
    ----------
    vectors : Tensor, shape (r, n)
        U: orthonormal rows.
    scales : Tensor, shape (r,), float64 on the CPU
        :math:`(\lambda_i + \mu) / (\lambda_r + \mu)`, above 0.

    See Also
    --------
    NystromPreconditioner.of : from the result of :func:`curvkit_core.algorithms.solves.nystrom`.

    Notes
    -----
    For a psd operator A whose Nystrom error is below mu, :math:`M^{-1/2}(A + \mu)M^{-1/2}` has a condition number of a
    few, whatever A's is [1]_.

    References
    ----------
    .. [1] Frangella, Tropp, Udell, SIAM J. Matrix Anal. Appl. 44(2), 2023, 718-752.
    """

    vectors: Tensor
    scales: Tensor = field(validator=_is_positive)

    @classmethod
    def of(cls, result: NystromResult, *, damping: float = 0.0) -> NystromPreconditioner:
        """For the system :math:`(A + \\mu I)x = b`, mu being `damping`; shares the result's eigenvectors.

        Raises
        ------
        ValueError
            If the operator showed itself indefinite, or `damping` is negative.
        """
        if not damping >= 0.0:
            msg = f"damping={damping!r}: expected a number of at least 0, that of the system to be solved."
            raise ValueError(msg)
        if result.status == "indefinite":
            msg = (
                f"the operator is indefinite (it has the Rayleigh quotient {result.curvature:.3g}), so its Nystrom "
                "approximation preconditions nothing. Take the GGN in the Hessian's place."
            )
            raise ValueError(msg)
        rank = int((result.eigenvalues > 0.0).sum())  # descending: the zeros are the last
        values = result.eigenvalues[:rank] + damping
        return cls(vectors=result.eigenvectors[:rank], scales=values / values[rank - 1] if rank else values)

    def inverse_rows(self, space: VectorSpace, R: Tensor) -> Tensor:
        """R + (1 / scales - 1) of its part in U."""
        if not len(self.scales):
            return R.clone()
        U = space.check(self.vectors, "vectors")
        return R + space.combine(space.gram(R, U) * (1.0 / self.scales - 1.0), U)
