r"""The effective dimension, :math:`\operatorname{tr}A(A + \delta I)^{-1}`: how many directions the data determine."""

from __future__ import annotations

import math
from typing import Unpack

from attrs import field, frozen, validators

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES
from curvkit_core.algorithms.delegating import Delegating
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.algorithms.spectra.spectral_sums import SpectralSum
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import SpectralSumResult

__all__ = ["EffectiveDimension", "effective_dimension"]


@frozen(kw_only=True)
class EffectiveDimension(Delegating):
    """tr A (A + damping)^-1 by stochastic Lanczos quadrature. Holds `lockstep` times `steps` + 1 vectors.

    Parameters
    ----------
    damping : float, above 0
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

    damping: float = field(default=1e-3, validator=[validators.gt(0.0), validators.lt(math.inf)])
    num_probes: int = field(default=16, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    lockstep: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    seed: int | None = field(default=None, validator=is_seed)

    @property
    def _engine(self) -> SpectralSum:
        return SpectralSum(
            function="ratio",
            damping=self.damping,
            num_probes=self.num_probes,
            steps=self.steps,
            probes=self.probes,
            lockstep=self.lockstep,
            basis_storage=self.basis_storage,
            basis_dtype=self.basis_dtype,
            seed=self.seed,
        )


def effective_dimension(
    op: CurvatureOperator,
    *,
    damping: float = 1e-3,
    num_probes: int = 16,
    steps: int = 40,
    probes: str = "rademacher",
    lockstep: int | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> SpectralSumResult:
    r"""Estimate :math:`\operatorname{tr}A(A + \delta I)^{-1}`: how many directions the data determine.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric, positive semidefinite: the GGN or a Fisher matrix.
    damping : float, above 0
        delta, in the operator's unit: weight decay, or a prior's precision over the number of units. Eigenvalues far
        above it count 1, those far below it nothing.
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
        ``estimate``, ``stderr``, ``bias_bound``. ``result.evaluate(damping=...)`` gives it for another damping with no
        further product.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    Notes
    -----
    MacKay's number of well-determined parameters [1]_. Finite steps make it too large, by ``bias_bound`` at most.

    An indefinite operator has no such dimension: a negative eigenvalue counts less than nothing. The number is given
    all the same, without ``bias_bound``, while all of A + damping is positive; else it is NaN, and ``status`` names the
    Ritz value and the damping that mends it. The quadrature is that of [2]_.

    References
    ----------
    .. [1] MacKay, "Bayesian interpolation", Neural Computation 4(3), 1992, 415-447.
    .. [2] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
    """
    algorithm = EffectiveDimension(
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
