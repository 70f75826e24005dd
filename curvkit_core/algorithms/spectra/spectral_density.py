r"""The smoothed spectral density :math:`\frac1n\sum_i g_\sigma(t-\lambda_i)`, by the method that is named."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from attrs import evolve, field, frozen, validators

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES
from curvkit_core.algorithms.delegating import Delegating
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.wanted import ENDS
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.algorithms.spectra.deflated_density import DeflatedQuadrature, DeflatedRules
from curvkit_core.algorithms.spectra.kpm import ChebyshevMoments, MomentsSoFar
from curvkit_core.algorithms.spectra.lanczos_quadrature import LanczosQuadrature, LanczosRules
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.density_drawing import SCALES, jackson_rules, unresolved_about_zero
from curvkit_core.results.types import DensityResult

__all__ = ["SpectralDensity", "spectral_density"]

METHODS = ("slq", "kpm", "deflated")
_OUTLIERS = 10
_COVERS = {
    "slq": "the random probes; the width sigma is not included, the finite number of Lanczos steps is in bias_bound",
    "kpm": "the random probes; the width of Jackson's kernel is not included",
    "deflated": (
        "the random probes of the bulk; outliers are exact to their residuals; the width sigma is not included, the "
        "finite number of Lanczos steps is in bias_bound"
    ),
}


@frozen(kw_only=True)
class SpectralDensity(Delegating):
    """The spectral density of a symmetric operator.

    Parameters
    ----------
    method : {"slq", "kpm", "deflated"}
        Stochastic Lanczos quadrature, kernel polynomial method, or quadrature with the outliers taken out first.
    num_probes : int, at least 1
        Independent probes; two at least for a band.
    steps : int, at least 1
        Products a probe; Lanczos makes at most n.
    num_outliers : int or None
        For ``"deflated"``: eigenpairs taken out, None: 10.
    which : {"LM", "LA", "SA", "BE"} or None
        For ``"deflated"``: at which end; None: LM, the largest in magnitude.
    sigma : float or None
        Width of the Gaussians, in decades on the log scale; None: 1/200 of the bulk's range, or as far as nodes lie
        apart (the median) where that is more; on the log scale 0.05; for ``"kpm"`` on the linear scale Jackson's kernel
        instead.
    grid_size : int, at least 2
        Points of the grid, on the log scale for each sign.
    scale : {"linear", "log"}
        Density over t, or over log10 |t| with either sign for itself.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    lockstep : int or None
        Probes that run at once; None: for Lanczos as many as hold their bases in 1 GiB together, at most 16.
    basis_storage : {"device", "host", "disk"}
        Where the bases lie; ``"kpm"`` has none.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        Of the bases; None: the vectors' own.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    method: str = field(default="slq", validator=validators.in_(METHODS))
    num_probes: int = field(default=8, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    num_outliers: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    which: str | None = field(default=None, validator=validators.optional(validators.in_(ENDS)))
    sigma: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    grid_size: int = field(default=1024, validator=validators.ge(2))
    scale: str = field(default="linear", validator=validators.in_(SCALES))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    lockstep: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    seed: int | None = field(default=None, validator=is_seed)

    def __attrs_post_init__(self) -> None:
        """Refuse an option that the method would not read."""
        deflated, kpm = self.method == "deflated", self.method == "kpm"
        for name, value, default, read in (
            ("num_outliers", self.num_outliers, None, deflated),
            ("which", self.which, None, deflated),
            ("basis_storage", self.basis_storage, "device", not kpm),
            ("basis_dtype", self.basis_dtype, None, not kpm),
        ):
            if value != default and not read:
                msg = f"{name}={value!r} has no effect with method={self.method!r}. Leave it out."
                raise ValueError(msg)

    def result(self, space: VectorSpace, state: Any) -> DensityResult:
        """The density of the probes finished so far, before the first of the steps made so far; else empty."""
        plain = DensityResult(
            nodes=torch.empty((0, 0), dtype=torch.float64),
            weights=torch.empty((0, 0), dtype=torch.float64),
            num_matvecs=state.num_matvecs,
            seed=state.seed,
            method=self.method,
            error_covers=_COVERS[self.method],
        )
        found = _put(plain, self._engine.result(space, state), space.eps)
        return found.redraw(sigma=self.sigma, grid_size=self.grid_size, scale=self.scale)

    @property
    def _engine(self) -> LanczosQuadrature | ChebyshevMoments | DeflatedQuadrature:
        if self.method == "kpm":
            return ChebyshevMoments(
                num_probes=self.num_probes,
                steps=self.steps,
                probes=self.probes,
                lockstep=self.lockstep,
                seed=self.seed,
            )
        quadrature = LanczosQuadrature(
            num_probes=self.num_probes,
            steps=self.steps,
            probes=self.probes,
            lockstep=self.lockstep,
            basis_storage=self.basis_storage,
            basis_dtype=self.basis_dtype,
            seed=self.seed,
        )
        if self.method == "slq":
            return quadrature
        return DeflatedQuadrature(
            num_outliers=_OUTLIERS if self.num_outliers is None else self.num_outliers,
            which=self.which or "LM",
            quadrature=quadrature,
        )


def _put(plain: DensityResult, found: LanczosRules | MomentsSoFar | DeflatedRules, eps: float) -> DensityResult:
    """Put an engine's findings into a result."""
    if isinstance(found, DeflatedRules):
        plain = evolve(plain, outliers=found.outliers, outlier_residuals=found.residuals, bulk_share=found.bulk_share)
        return plain if found.bulk is None else _put(plain, found.bulk, eps)
    if isinstance(found, MomentsSoFar):
        if found.interval is None or not found.moments.numel():
            return plain
        nodes, weights, spreads = jackson_rules(found.moments, found.interval)
        plain = evolve(plain, moments=found.moments, interval=found.interval)
    elif found.nodes.numel():
        nodes, weights, spreads = found.nodes, found.weights, found.spreads
        plain = evolve(plain, degrees=found.degrees)
    else:
        return plain
    rounding = eps * float(torch.cat([nodes.reshape(-1), plain.outliers]).abs().max())
    resolution = max(rounding, unresolved_about_zero(nodes, weights, spreads))
    return evolve(plain, nodes=nodes, weights=weights, spreads=spreads, resolution=resolution)


def spectral_density(
    op: CurvatureOperator,
    *,
    method: str = "slq",
    num_probes: int = 8,
    steps: int = 40,
    num_outliers: int | None = None,
    which: str | None = None,
    sigma: float | None = None,
    grid_size: int = 1024,
    scale: str = "linear",
    probes: str = "rademacher",
    lockstep: int | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> DensityResult:
    r"""Estimate the spectral density :math:`\phi(t) = \frac1n\sum_i g_\sigma(t - \lambda_i)`, with a band over probes.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    method : {"slq", "kpm", "deflated"}
        ``"slq"``: stochastic Lanczos quadrature [1]_, [2]_. ``"kpm"``: the kernel polynomial method [3]_, in three
        vectors of memory a probe. ``"deflated"``: the `num_outliers` outermost eigenpairs exactly, and quadrature of
        the rest, which then needs far fewer steps; outliers weigh what they should, not what a probe gives them.
    num_probes : int, at least 1
        Independent probes; two at least for a band.
    steps : int, at least 1
        Products a probe: num_probes times steps in all, for ``"kpm"`` up to 20 more for the interval, for
        ``"deflated"`` at most so many again for the outliers.
    num_outliers : int or None
        For ``"deflated"``: eigenpairs looked for, None: 10. Those that do not converge stay in the bulk.
    which : {"LM", "LA", "SA", "BE"} or None
        For ``"deflated"``: at which end of the spectrum; None: LM, the largest in magnitude.
    sigma : float or None
        Width of the Gaussians, in decades on the log scale; None: 1/200 of the bulk's range, or as far as nodes lie
        apart (the median) where that is more; on the log scale 0.05; for ``"kpm"`` on the linear scale Jackson's kernel
        instead.
    grid_size : int, at least 2
        Points of the grid, on the log scale for each sign; outliers far outside the bulk get 49 each of their own.
    scale : {"linear", "log"}
        Density over t, or over log10 |t| with either sign for itself.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    lockstep : int or None
        Probes that run at once, sharing each product's passes over the model; None: as many as hold their bases of
        `steps` vectors in 1 GiB together (for ``"kpm"`` their vectors in 256 MiB), at most 16. The result does not
        depend on it.
    basis_storage : {"device", "host", "disk"}
        Where the Lanczos bases lie.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        Of the Lanczos bases; None: the vectors' own. A lower one rounds the nodes: to about 1e-2 of the spectral
        radius in bfloat16.
    seed : int or None
        None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    DensityResult
        Mass 1. :meth:`DensityResult.redraw` draws it with another width, grid or scale, at no product's cost.

    Raises
    ------
    ValueError
        If the operator is not symmetric, or an option is out of range or of no effect with `method`.

    Notes
    -----
    A rule of m steps is exact for polynomials of degree 2m - 1. How far that can move the smoothed density is in
    ``bias_bound``: a width below about range / steps shows single nodes, not the spectrum's own structure. Deflated
    sign probes are no signs any more: their density has a bias of the order 1/n, Gaussian ones have none.

    References
    ----------
    .. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
    .. [2] Lin, Saad, Yang, SIAM Review 58(1), 2016, 34-65.
    .. [3] Weisse, Wellein, Alvermann, Fehske, Rev. Mod. Phys. 78(1), 2006, 275-306.
    """
    algorithm = SpectralDensity(
        method=method,
        num_probes=num_probes,
        steps=steps,
        num_outliers=num_outliers,
        which=which,
        sigma=sigma,
        grid_size=grid_size,
        scale=scale,
        probes=probes,
        lockstep=lockstep,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
        seed=seed,
    )
    result: DensityResult = run(algorithm, op, **driver)
    return result
