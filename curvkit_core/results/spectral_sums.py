r"""Sums over the spectrum, :math:`\sum_i f(\lambda_i)`, with the rules that give them anew for another function."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["FUNCTIONS", "SpectralFunction", "SpectralSumResult"]

_ROUNDING = 10.0  # eigenvalues below this times eps |A| cannot be told from zero
_SHIFTS = 2.0  # the damping that is recommended, times what would just do


@frozen(kw_only=True)
class SpectralFunction:
    r"""A function of an eigenvalue t and a damping d for :math:`t + d > 0`.

    All its even derivatives have one sign there and its odd ones the other, so that a Gauss rule and a Gauss-Radau rule
    with its extra node below the spectrum have the truth between them.

    Parameters
    ----------
    formula : str
    value : callable
        ``value(t, d)``, elementwise.
    """

    formula: str
    value: Callable[[Tensor, float], Tensor]


FUNCTIONS = {
    "log": SpectralFunction(formula="log(t + damping)", value=lambda t, d: (t + d).log()),
    "inverse": SpectralFunction(formula="1 / (t + damping)", value=lambda t, d: 1.0 / (t + d)),
    "sqrt": SpectralFunction(formula="sqrt(t + damping)", value=lambda t, d: (t + d).sqrt()),
    "ratio": SpectralFunction(formula="t / (t + damping)", value=lambda t, d: t / (t + d)),
}


@frozen(kw_only=True, eq=False)
class SpectralSumResult(ShowsItself):
    r"""An estimate of :math:`\operatorname{tr} f(A) = \sum_i f(\lambda_i)` with its standard error.

    Parameters
    ----------
    estimate : float
        NaN where the function is not defined on the spectrum: see ``status``.
    stderr : float
        One standard error over the probes; infinite for one probe.
    bias_bound : float or None
        Bound on what the finite number of Lanczos steps adds (for ``"inverse"``: takes away); 0.0 where every probe's
        Krylov space was exhausted; None where A is not positive semidefinite, the function has a pole at the lower end
        (no damping), or nothing is known of it.
    num_matvecs : int
        Products used.
    function : str
        Its name; ``"custom"`` for one of your own.
    damping : float
        Added to every eigenvalue.
    status : str
        ``"done"``; or what is not positive, and the damping that mends it; ``"no probe"`` before the first.
    seed : int
        Of the probes.
    n : int
        The operator's size.
    samples : Tensor, shape (p,), float64
        The independent estimates behind ``estimate``.
    nodes, weights : Tensor, shape (p, m), float64
        Each probe's Gauss rule; see :meth:`evaluate`.
    lower_nodes, lower_weights : Tensor, shape (p, m + 1), float64
        Each probe's Gauss-Radau rule with a node at zero; empty where A is not positive semidefinite.
    degrees : Tensor, shape (p,), float64
        Up to this degree a probe's rule integrates polynomials exactly; inf where it is the whole measure.
    eps : float
        Unit roundoff of the vectors.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: float = math.nan
    stderr: float = math.inf
    bias_bound: float | None = None
    num_matvecs: int
    function: str
    damping: float
    status: str = "no probe"
    seed: int
    n: int
    samples: Tensor = attrs.Factory(lambda: torch.empty(0, dtype=torch.float64))
    nodes: Tensor
    weights: Tensor
    lower_nodes: Tensor
    lower_weights: Tensor
    degrees: Tensor
    eps: float
    error_covers: str = "the random probes; the finite number of Lanczos steps is in bias_bound, rounding is in neither"
    info: ResultInfo | None = None

    @property
    def converged(self) -> bool:
        """Whether there is an estimate."""
        return self.status == "done"

    @property
    def formula(self) -> str:
        """What is summed, of an eigenvalue t."""
        return FUNCTIONS[self.function].formula if self.function in FUNCTIONS else "f(t + damping)"

    def evaluate(
        self, function: str | Callable[[Tensor], Tensor] | None = None, *, damping: float | None = None
    ) -> SpectralSumResult:
        """Estimate another sum from the same rules; costs no product.

        Parameters
        ----------
        function : str, callable or None
            A name, or ``f(t)`` from a float64 tensor of eigenvalues (damping included) to their values, elementwise.
            None: the same.
        damping : float or None
            None: the same.

        Returns
        -------
        SpectralSumResult
            For a function of your own ``bias_bound`` is None unless the rules are exact.

        Raises
        ------
        ValueError
            If the name is unknown or the damping is not finite.
        """
        damping = self.damping if damping is None else damping
        named = self.function if function is None else function
        if not math.isfinite(damping):
            msg = f"damping={damping!r}: expected a finite number."
            raise ValueError(msg)
        if isinstance(named, str) and named not in FUNCTIONS:
            msg = f"function={named!r} is unknown: expected one of {', '.join(FUNCTIONS)}, or a callable."
            raise ValueError(msg)
        name = named if isinstance(named, str) else "custom"
        plain = attrs.evolve(self, function=name, damping=damping, samples=self.samples[:0], bias_bound=None)
        if not self.nodes.numel():
            return attrs.evolve(plain, estimate=math.nan, stderr=math.inf, status="no probe")
        exact = 0.0 if bool(self.degrees.isinf().all()) else None
        if not isinstance(named, str):
            return plain._with(self.n * _integral(named(self.nodes + damping), self.weights), exact)
        refusal = self._refusal(name, damping)
        if refusal:
            return attrs.evolve(plain, estimate=math.nan, stderr=math.inf, status=refusal)
        f = FUNCTIONS[name].value
        samples = self.n * _integral(f(self.nodes, damping), self.weights)
        bias = exact
        if bias is None and self.lower_nodes.numel() and float(self.lower_nodes.min()) + damping > 0.0:
            other = self.n * _integral(f(self.lower_nodes, damping), self.lower_weights)
            bias = float((samples - other).abs().mean())
        return plain._with(samples, bias)

    def _with(self, samples: Tensor, bias: float | None) -> SpectralSumResult:
        spread = float(samples.std(unbiased=True)) if len(samples) > 1 else math.inf
        return attrs.evolve(
            self,
            estimate=float(samples.mean()),
            stderr=spread / len(samples) ** 0.5,
            bias_bound=bias,
            samples=samples,
            status="done",
        )

    def _refusal(self, name: str, damping: float) -> str:
        """Empty, or why the function is not defined on the spectrum found."""
        used = self.nodes[self.weights > 0]
        low, floor = float(used.min()), _ROUNDING * self.eps * float(used.abs().max())
        if low + damping > floor:
            return ""
        mend = _SHIFTS * max(floor - low, floor) or 1.0
        return (
            f"not positive: the smallest Ritz value {low:.3g} plus damping={damping:.3g} is not above {floor:.1g}, the "
            f"rounding, so {FUNCTIONS[name].formula} is not defined. Mend: evaluate(damping={mend:.2g}) or more, with "
            "no further product"
        )


def _integral(values: Tensor, weights: Tensor) -> Tensor:
    """Sums w f, one a row; a place of weight 0 counts nothing whatever f is there."""
    return torch.where(weights > 0, values * weights, torch.zeros_like(weights)).sum(1)
