"""One measurement during training."""

from __future__ import annotations

from typing import Any

from attrs import frozen

__all__ = ["TrackerRow"]


@frozen(kw_only=True)
class TrackerRow:
    r"""What was measured at one step of training.

    Parameters
    ----------
    step : int
        The step.
    learning_rate : float or None
        As it was given, the largest of several.
    loss : float
        The risk over the tracker's data.
    gradient_norm : float
        :math:`\|g\|_2` of that risk.
    eigenvalues, residuals : tuple of float
        The largest eigenvalues, descending, and how well each is known: one lies within its residual.
    converged : bool
        Whether all came below the tolerance.
    overlap : float
        :math:`\|P g\|^2/\|g\|^2`, the share of the gradient in the span of those eigenvectors; NaN where g = 0.
    trace, trace_stderr : float or None
        Estimated with its standard error; None where it was not asked for.
    products : int
        Products that this measurement took.
    seconds : float
        Time that it took.
    """

    step: int
    learning_rate: float | None
    loss: float
    gradient_norm: float
    eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    converged: bool
    overlap: float
    trace: float | None
    trace_stderr: float | None
    products: int
    seconds: float

    @property
    def sharpness(self) -> float:
        """The largest eigenvalue."""
        return self.eigenvalues[0]

    @property
    def stability(self) -> float | None:
        """Learning rate times sharpness: gradient descent on a quadratic diverges above 2."""
        return None if self.learning_rate is None else self.learning_rate * self.sharpness

    def flat(self) -> dict[str, Any]:
        """Return plain columns: ``eig_0``, ``eig_1``, ...; what a CSV, a logger or pandas takes."""
        named: dict[str, Any] = {"step": self.step, "learning_rate": self.learning_rate, "loss": self.loss}
        named |= {"gradient_norm": self.gradient_norm, "sharpness": self.sharpness, "stability": self.stability}
        named |= {f"eig_{i}": value for i, value in enumerate(self.eigenvalues)}
        named |= {f"residual_{i}": value for i, value in enumerate(self.residuals)}
        named |= {"converged": self.converged, "overlap": self.overlap}
        named |= {"trace": self.trace, "trace_stderr": self.trace_stderr}
        return named | {"products": self.products, "seconds": self.seconds}
