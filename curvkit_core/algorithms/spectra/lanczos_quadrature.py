r"""Lanczos from many independent probes in lockstep: a Gauss rule of each probe's spectral measure [1]_.

.. math:: \mu_z(t) = \sum_i \frac{(u_i^\top z)^2}{\|z\|^2}\,\delta(t - \lambda_i), \qquad E[\mu_z] =
          \frac1n\sum_i\delta(t - \lambda_i).

Stochastic Lanczos quadrature of densities and of sums over the spectrum stands on this. Each probe has a basis of its
own and is orthogonalised against all of it, so there are no ghosts; several probes share a product block, and none
feels the others. A place whose probe is through takes the next one.

References
----------
.. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099.
"""

from __future__ import annotations

import math

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES, Basis
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.algorithms.spectra.quadrature_rules import gauss_rules, node_spreads
from curvkit_core.backends import VectorSpace

__all__ = ["LanczosQuadrature", "LanczosRules"]

_BREAKDOWN = 10.0  # a remainder below this times eps |A| is rounding: the Krylov space is exhausted
_DROP = 0.717  # Daniel, Gragg, Kaufman, Stewart, Math. Comp. 30 (1976): below 1/sqrt(2), orthogonalise again
_PASSES = 4
_AT_ONCE = 16  # probes in lockstep: wider blocks gain little and cost a basis each
_BYTES = 2**30  # of all bases together


@frozen(kw_only=True, eq=False)
class LanczosRules:
    """Gauss rules of the probes so far.

    Parameters
    ----------
    nodes, weights : Tensor, shape (p, m), float64
        A rule a row; unused places carry weight 0.
    spreads : Tensor, shape (p, m), float64
        How far from a node the mass it stands for may lie.
    degrees : Tensor, shape (p,), float64
        Up to this degree the rule integrates polynomials exactly; inf where it is the probe's whole measure.
    alpha, beta, sizes : Tensor
        The Lanczos coefficients behind them, see :func:`curvkit_core.algorithms.spectra.quadrature_rules.gauss_rules`.
    """

    nodes: Tensor
    weights: Tensor
    spreads: Tensor
    degrees: Tensor
    alpha: Tensor
    beta: Tensor
    sizes: Tensor


@define(kw_only=True)
class LanczosQuadratureState:
    """Place s works on probe ``slots[s]`` (-1: on none): its newest vector, and the basis of those multiplied.

    `pending` lists the places that the present round has still to multiply. Probe j has made ``sizes[j]`` steps.
    """

    seed: int
    begun: int
    slots: tuple[int, ...]
    pending: tuple[int, ...]
    newest: Tensor
    bases: tuple[Basis, ...]
    avoid: Tensor
    alpha: Tensor
    beta: Tensor
    sizes: Tensor
    scales: Tensor
    finished: Tensor
    num_matvecs: int


@frozen(kw_only=True)
class LanczosQuadrature:
    """Gauss rules of random probes' spectral measures. Holds `lockstep` times `steps` + 1 vectors.

    Parameters
    ----------
    num_probes : int, at least 1
        Independent probes.
    steps : int, at least 1
        Lanczos steps a probe, at most n are made.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    first : int, at least 0
        Number of the first probe in the stream of random vectors.
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

    num_probes: int = field(default=8, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    first: int = field(default=0, validator=validators.ge(0))
    lockstep: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, avoid: Tensor | None = None) -> LanczosQuadratureState:
        """Draw the first probes, orthogonal to the orthonormal rows of `avoid` (k, n), k < n, where they are given."""
        avoid = space.zeros(0) if avoid is None else space.check(avoid, "avoid").clone()
        if len(avoid) >= space.n:
            msg = f"avoid holds {len(avoid)} rows: expected fewer than {space.n}, the operator's size."
            raise ValueError(msg)
        steps = min(self.steps, space.n - len(avoid))
        width = self._width(space, steps)
        state = LanczosQuadratureState(
            seed=fresh_seed(self.seed),
            begun=0,
            slots=(-1,) * width,
            pending=tuple(range(width)),
            newest=space.zeros(width),
            bases=tuple(
                Basis.allocate(space, steps, storage=self.basis_storage, dtype=self.basis_dtype) for _ in range(width)
            ),
            avoid=avoid,
            alpha=torch.zeros((self.num_probes, steps), dtype=torch.float64),
            beta=torch.zeros((self.num_probes, steps), dtype=torch.float64),
            sizes=torch.zeros(self.num_probes, dtype=torch.int64),
            scales=torch.zeros(self.num_probes, dtype=torch.float64),
            finished=torch.zeros(self.num_probes, dtype=torch.bool),
            num_matvecs=0,
        )
        for slot in range(width):
            self._start_probe(space, state, slot)
        return state

    def ask(self, state: LanczosQuadratureState, max_rows: int) -> Tensor | None:
        """The newest vectors of the places that wait."""
        places = state.pending[:max_rows]
        if not places:
            return None
        if places[-1] - places[0] == len(places) - 1:
            return state.newest[places[0] : places[-1] + 1]
        return state.newest[list(places)]

    def tell(self, space: VectorSpace, state: LanczosQuadratureState, V: Tensor, AV: Tensor) -> LanczosQuadratureState:
        """One Lanczos step of each probe that was multiplied; a place whose probe is through takes the next."""
        for slot, row in zip(state.pending, AV, strict=False):
            self._step(space, state, slot, row[None].clone())
        state.num_matvecs += len(AV)
        state.pending = state.pending[len(AV) :]
        if not state.pending:
            state.pending = tuple(s for s, probe in enumerate(state.slots) if probe >= 0)
        return state

    def result(self, space: VectorSpace, state: LanczosQuadratureState) -> LanczosRules:
        """The rules of the probes finished so far; before the first, those of the steps that were made."""
        chosen = state.finished if bool(state.finished.any()) else state.sizes > 0
        alpha, beta, sizes = state.alpha[chosen], state.beta[chosen], state.sizes[chosen]
        nodes, weights, residuals = gauss_rules(alpha, beta, sizes)
        last = beta.gather(1, (sizes - 1)[:, None])[:, 0]
        return LanczosRules(
            nodes=nodes,
            weights=weights,
            spreads=node_spreads(nodes, residuals, sizes),
            degrees=torch.where(last == 0.0, torch.inf, 2.0 * sizes.double() - 1.0),
            alpha=alpha,
            beta=beta,
            sizes=sizes,
        )

    def progress(self, state: LanczosQuadratureState) -> Progress:
        """Steps done of num_probes times steps; a probe that has broken down counts as a whole one."""
        steps = state.alpha.shape[1]
        through = int(state.finished.sum())
        done = through * steps + int(state.sizes[~state.finished].sum())
        return Progress(done=done, total=self.num_probes * steps, note=f"{through} of {self.num_probes} probes")

    def _width(self, space: VectorSpace, steps: int) -> int:
        if self.lockstep is not None:
            return min(self.lockstep, self.num_probes)
        dtype = space.dtype if self.basis_dtype is None else getattr(torch, self.basis_dtype)
        # the global n: the same on every rank
        return max(1, min(self.num_probes, _AT_ONCE, _BYTES // (steps * space.n * dtype.itemsize)))

    def _start_probe(self, space: VectorSpace, state: LanczosQuadratureState, slot: int) -> None:
        """Put the next probe into a place, or none if all have begun."""
        basis = state.bases[slot]
        basis.truncate(0)
        if state.begun == self.num_probes:
            state.slots = (*state.slots[:slot], -1, *state.slots[slot + 1 :])
            return
        kind, index = self.probes, self.first + state.begun
        row = space.random(kind, state.seed, index, 1)
        _, before, after = _orthogonalize(space, row, state.avoid, basis)
        if after <= _BREAKDOWN * space.eps * before:  # signs may lie within what is avoided; a Gaussian vector never
            row = space.random("gaussian", state.seed, index + self.num_probes, 1)
            _, _, after = _orthogonalize(space, row, state.avoid, basis)
        state.newest[slot] = row[0] / after
        state.slots = (*state.slots[:slot], state.begun, *state.slots[slot + 1 :])
        state.begun += 1

    def _step(self, space: VectorSpace, state: LanczosQuadratureState, slot: int, w: Tensor) -> None:
        probe, basis = state.slots[slot], state.bases[slot]
        j = basis.size
        basis.append(state.newest[slot : slot + 1])
        h, norm, after = _orthogonalize(space, w, state.avoid, basis)
        scale = max(float(state.scales[probe]), norm)
        if j + 1 + len(state.avoid) == space.n or after <= _BREAKDOWN * space.eps * scale:
            after = 0.0
        state.alpha[probe, j], state.beta[probe, j], state.scales[probe] = h[j], after, scale
        state.sizes[probe] = j + 1
        if after == 0.0 or j + 1 == basis.capacity:
            state.finished[probe] = True
            self._start_probe(space, state, slot)
        else:
            state.newest[slot] = w[0] / after


def _orthogonalize(space: VectorSpace, w: Tensor, avoid: Tensor, basis: Basis) -> tuple[Tensor, float, float]:
    """Free the row `w` (1, n), in place, from `avoid` and the basis; coefficients in the basis, norm before and after.

    Classical Gram-Schmidt against all of it, twice, and again while a pass took so much away that rounding is felt.
    """
    coefficients = torch.zeros(basis.size, dtype=torch.float64)
    if not (basis.size or len(avoid)):
        norm = float(space.norms(w)[0])
        return coefficients, norm, norm
    known = torch.zeros(len(avoid), dtype=torch.float64)
    after = 0.0
    for number in range(_PASSES):
        taken = 0.0
        if len(avoid):
            g = space.gram(w, avoid)
            w -= space.combine(g, avoid)
            known += g[0]
            taken = float(g.norm())
        if basis.size:
            h = basis.gram(space, w)
            basis.subtract(space, h, w)
            coefficients += h[0]
            taken = math.hypot(taken, float(h.norm()))
        if number:  # the first pass of a Lanczos step takes most of the row away: it is always felt
            after = float(space.norms(w)[0])
            if after > _DROP * math.hypot(after, taken):
                break
    # both orthonormal: Pythagoras
    return coefficients, math.hypot(float(known.norm()), float(coefficients.norm()), after), after
