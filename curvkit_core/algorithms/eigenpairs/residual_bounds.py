"""What may be claimed of a Lanczos residual: its own bound knows nothing of rounding, noise or coarse storage."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor, tensor

__all__ = ["ResidualBounds"]

_ROUNDING = 10.0  # residuals below this times eps |A| cannot be told from rounding
# Rounding adds up like a random walk over the steps (seen: 4 eps |A| after 56 products, 27 after 1,000): no residual is
# claimed below three times that.
_WALK = 3.0


@frozen(kw_only=True)
class ResidualBounds:
    """How far the recurrence's bounds can be trusted.

    Parameters
    ----------
    tol : float
        A residual is low enough below this times its eigenvalue's magnitude.
    eps : float
        Unit roundoff of the vectors.
    scale : float
        |A|, as far as it is known.
    num_matvecs : int
        Products so far.
    coarseness : Tensor, shape (m,) or ()
        What products, stored rows and left-out coefficients may add to each residual.
    """

    tol: float
    eps: float
    scale: float
    num_matvecs: int
    coarseness: Tensor

    def honest(self, residuals: Tensor) -> Tensor:
        """The bounds with all that they do not see."""
        walk = _WALK * self.eps * self.num_matvecs**0.5 * self.scale
        return (residuals + self.coarseness).hypot(tensor(walk, dtype=residuals.dtype))

    def converged(self, theta: Tensor, residuals: Tensor) -> Tensor:
        """Below the tolerance, coarseness included; or at rounding level."""
        rounding = _ROUNDING * self.eps * self.scale
        exact = self.coarseness <= rounding * max(1, self.num_matvecs) ** 0.5
        below: Tensor = residuals + self.coarseness <= self.tol * theta.abs()
        return below.logical_or((residuals <= rounding) & exact)

    def settled(self, theta: Tensor, residuals: Tensor) -> Tensor:
        """Converged, or so low that going on is of no use."""
        return self.converged(theta, residuals) | (
            residuals <= self.coarseness.clamp_min(_ROUNDING * self.eps * self.scale)
        )

    def status(self, theta: Tensor, residuals: Tensor, k: int) -> str:
        """Why an eigensolver that ends here with the pairs wanted, of k, ends: as in :class:`EigenResult`."""
        if len(theta) < k or not bool(self.settled(theta, residuals).all()):
            return "stopped"
        return "converged" if bool(self.converged(theta, residuals).all()) else "noise"
