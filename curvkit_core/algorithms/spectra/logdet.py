r"""The logarithm of the determinant, :math:`\log\det(A + \delta I) = \operatorname{tr}\log(A + \delta I)`."""

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

__all__ = ["LogDet", "logdet"]


@frozen(kw_only=True)
class LogDet(Delegating):
    """log det(A + damping) by stochastic Lanczos quadrature. Holds `lockstep` times `steps` + 1 vectors.

    Parameters
    ----------
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

    damping: float = field(default=0.0, validator=[validators.gt(-math.inf), validators.lt(math.inf)])
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
            function="log",
            damping=self.damping,
            num_probes=self.num_probes,
            steps=self.steps,
            probes=self.probes,
            lockstep=self.lockstep,
            basis_storage=self.basis_storage,
            basis_dtype=self.basis_dtype,
            seed=self.seed,
        )


def logdet(
    op: CurvatureOperator,
    *,
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
    r"""Estimate :math:`\log\det(A + \delta I) = \sum_i\log(\lambda_i + \delta)`, by stochastic Lanczos quadrature [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric; with the damping positive definite.
    damping : float
        delta, added to every eigenvalue.
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
        the logarithm with no further product.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    Notes
    -----
    Finite steps make it too large, by ``bias_bound`` at most if A is positive semidefinite and damping > 0. Without
    damping there is no bound, since the logarithm has its pole at the spectrum's possible end: the logarithm of a
    singular operator is -inf, which a Ritz value that has not come down to rounding does not show.

    References
    ----------
    .. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
    """
    algorithm = LogDet(
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
