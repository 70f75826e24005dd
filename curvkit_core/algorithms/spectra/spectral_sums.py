r"""Sums over the spectrum, :math:`\operatorname{tr} f(A) \approx \frac{n}{p}\sum_{jk} w_{jk}f(\theta_{jk})` [1]_.

The rules are those of the density. Their error has a sign where the derivatives of f alternate: for log(t + d),
sqrt(t + d) and t/(t + d) a Gauss rule is too large and a Gauss-Radau rule with a node below the spectrum too small, for
1/(t + d) the other way round [2]_. For a positive semidefinite operator that node is 0, and the two rules' mean
difference bounds the bias.

References
----------
.. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
.. [2] Golub, Meurant, "Matrices, Moments and Quadrature with Applications", Princeton, 2010, chapter 6.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import Attribute, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES
from curvkit_core.algorithms.delegating import Delegating
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.algorithms.spectra.lanczos_quadrature import LanczosQuadrature, LanczosQuadratureState, LanczosRules
from curvkit_core.algorithms.spectra.quadrature_rules import radau_rules
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.spectral_sums import FUNCTIONS
from curvkit_core.results.types import SpectralSumResult

__all__ = ["SpectralSum", "spectral_sum"]

_ROUNDING = 10.0  # a Ritz value above minus this times eps |A| is one of a semidefinite operator


def _named(instance: Any, attribute: Attribute[str], value: Any) -> None:
    """Check a function's name: attrs validator."""
    if value not in FUNCTIONS:
        msg = (
            f"function={value!r} is unknown: expected one of {', '.join(FUNCTIONS)}. A function of your own goes to "
            "the result: spectral_sum(op).evaluate(f), at no further product."
        )
        raise ValueError(msg)


@frozen(kw_only=True)
class SpectralSum(Delegating):
    """tr f(A) by stochastic Lanczos quadrature. Holds `lockstep` times `steps` + 1 vectors.

    Parameters
    ----------
    function : {"log", "inverse", "sqrt", "ratio"}
        log(t + d), 1/(t + d), sqrt(t + d) or t/(t + d), d being `damping`.
    damping : float
        Added to every eigenvalue.
    num_probes : int, at least 1
        Independent probes; two at least for an error.
    steps : int, at least 1
        Lanczos steps a probe, at most n are made.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    lockstep : int or None
        Probes that run at once; None: as many as hold their bases in 1 GiB together, at most 16.
    basis_storage : {"device", "host", "disk"}
        Where the bases lie.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        Of the bases; None: the vectors' own.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    function: str = field(default="log", validator=_named)
    damping: float = field(default=0.0, validator=[validators.gt(-math.inf), validators.lt(math.inf)])
    num_probes: int = field(default=16, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    lockstep: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    seed: int | None = field(default=None, validator=is_seed)

    def result(self, space: VectorSpace, state: LanczosQuadratureState) -> SpectralSumResult:
        """The sum by the probes finished so far, before the first by the steps made so far; NaN before any."""
        rules = self._engine.result(space, state)
        lower_nodes, lower_weights = _lower(rules, space.eps)
        plain = SpectralSumResult(
            num_matvecs=state.num_matvecs,
            function=self.function,
            damping=self.damping,
            seed=state.seed,
            n=space.n,
            nodes=rules.nodes,
            weights=rules.weights,
            lower_nodes=lower_nodes,
            lower_weights=lower_weights,
            degrees=rules.degrees,
            eps=space.eps,
        )
        return plain.evaluate()

    @property
    def _engine(self) -> LanczosQuadrature:
        return LanczosQuadrature(
            num_probes=self.num_probes,
            steps=self.steps,
            probes=self.probes,
            lockstep=self.lockstep,
            basis_storage=self.basis_storage,
            basis_dtype=self.basis_dtype,
            seed=self.seed,
        )


def _lower(rules: LanczosRules, eps: float) -> tuple[Tensor, Tensor]:
    """Radau rules with a node at zero, or just below where rounding put a Ritz value; none if A is indefinite."""
    none = torch.empty((len(rules.nodes), 0), dtype=torch.float64)
    if not rules.nodes.numel():
        return none, none
    low, floor = float(rules.nodes.min()), _ROUNDING * eps * float(rules.nodes.abs().max())
    if low < -floor:
        return none, none
    # the zero operator has no scale: any place below it will do
    node = 0.0 if low > floor else -2.0 * floor or -eps
    return radau_rules(rules.alpha, rules.beta, rules.sizes, node)


def spectral_sum(
    op: CurvatureOperator,
    *,
    function: str = "log",
    damping: float = 0.0,
    num_probes: int = 16,
    steps: int = 40,
    probes: str = "rademacher",
    lockstep: int | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> SpectralSumResult:
    r"""Estimate :math:`\operatorname{tr} f(A) = \sum_i f(\lambda_i)` by stochastic Lanczos quadrature [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    function : {"log", "inverse", "sqrt", "ratio"}
        log(t + d), 1/(t + d), sqrt(t + d) or t/(t + d), d being `damping`. One of your own goes to the result:
        ``spectral_sum(op).evaluate(f)``.
    damping : float
        Added to every eigenvalue.
    num_probes : int, at least 1
        Independent probes; two at least for an error.
    steps : int, at least 1
        Lanczos steps a probe: num_probes times steps products.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    lockstep : int or None
        Probes that run at once, sharing each product's passes over the model; None: as many as hold their bases of
        `steps` vectors in 1 GiB together, at most 16. The result does not depend on it.
    basis_storage : {"device", "host", "disk"}
        Where the bases lie.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        Of the bases; None: the vectors' own.
    seed : int or None
        None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    SpectralSumResult
        ``estimate``, ``stderr``, ``bias_bound``. Where a Ritz value plus damping is not above rounding, the estimate is
        NaN and ``status`` says which value, and the damping that mends it: ``result.evaluate(damping=...)`` then gives
        the sum with no further product.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    Notes
    -----
    ``bias_bound`` takes A for positive semidefinite where no Ritz value is negative beyond rounding.

    References
    ----------
    .. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
    """
    algorithm = SpectralSum(
        function=function,
        damping=damping,
        num_probes=num_probes,
        steps=steps,
        probes=probes,
        lockstep=lockstep,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
        seed=seed,
    )
    result: SpectralSumResult = run(algorithm, op, **driver)
    return result
