r"""The sampled Fisher :math:`\frac1{NS}\sum_{u,s} g_{us} g_{us}^\top`, its targets drawn from the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from attrs import define
from torch import Tensor

from curvkit_core.backends import HoldsShards, probes
from curvkit_core.linearize import Linearization
from curvkit_core.losses import SamplesTargets
from curvkit_core.losses.protocol import GivesUnitOuter, Outputs
from curvkit_core.losses.unit_gradients import has_closed_outer, outer_by_autograd
from curvkit_core.operators.data_operator import DataOperator
from curvkit_core.problem.problem import Problem

__all__ = ["FisherOperator"]


class FisherOperator(DataOperator):
    r"""The Monte-Carlo Fisher :math:`\frac1{NS}\sum_u\sum_s g_{us} g_{us}^\top`, S targets a unit drawn from the model.

    :math:`g_{us}` is the gradient of unit u's sampled loss (:class:`curvkit_core.losses.SamplesTargets`), so that the
    mean over the draws is the generalized Gauss-Newton matrix. Positive semidefinite, of rank at most N S. One fixed
    matrix: the draws are those of the model's own outputs at numbers that depend on (seed, sample, unit number) alone,
    units being counted in the data's order, ignored ones left out; so no cut into batches changes it. A product is
    :math:`J^\top R^\top R J v`: O(n) memory, no gradient is formed; the network's part is a GGN product's, whatever S.

    Parameters
    ----------
    problem : Problem
        Its loss must be able to draw targets (``sample_targets``, ``sampled_losses``). The order of its data counts.
    num_samples : int, at least 1
        S. Costs S passes through the loss alone.
    seed : int, 0 to 2^63 - 1
        Of the draws.
    strategy : {"auto", "reverse", "lean", "finite-difference"}
    cache : {"auto", "keep", "rebuild", "offload"}
    memory_budget : int, str or None
    compile : bool
        How products are made: cost, never meaning (finite differences excepted). See
        :class:`curvkit_core.linearize.EngineOptions`.

    Raises
    ------
    TypeError
        If the loss cannot draw targets.
    ValueError
        If `num_samples` or `seed` is out of range.

    Notes
    -----
    An eigenvalue has a relative sampling error of order :math:`1/\sqrt{NS}` where the units are alike.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_samples: int = 1,
        seed: int = 0,
        strategy: str = "auto",
        cache: str = "auto",
        memory_budget: int | str | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word for it
    ) -> None:
        super().__init__(problem, strategy=strategy, cache=cache, memory_budget=memory_budget, compile=compile)
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            msg = f"num_samples={num_samples!r}: expected a positive integer, the targets drawn for each unit."
            raise ValueError(msg)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            msg = f"seed={seed!r} is no seed: expected an integer from 0 to 2^63 - 1."
            raise ValueError(msg)
        if not isinstance(problem.loss, SamplesTargets):
            msg = (
                f"{type(problem.loss).__name__} cannot draw targets: the sampled Fisher needs the methods "
                "sample_targets(y, batch, uniforms) and sampled_losses(y, batch, targets). Use a loss adapter that has "
                "them, or EmpiricalFisherOperator, or GGNOperator."
            )
            raise TypeError(msg)
        self.num_samples = num_samples
        self.seed = seed
        self._loss: SamplesTargets = problem.loss
        self._first_unit = self._units = 0
        self._counted: Callable[[], Linearization | None] = _nothing
        self._own_units: tuple[int, int] | None = None  # units of the ranks before this one, and this one's

    def begin_pass(self) -> None:
        """Units are counted anew, from those of the ranks before this one."""
        if self._own_units is None and self._problem.backend.world.size > 1:
            self._own_units = self._count_units()
        self._first_unit = 0 if self._own_units is None else self._own_units[0]
        self._units = 0
        self._counted = _nothing

    def end_pass(self) -> None:
        """On several ranks the numbers of the later ranks' units lean on this one's being as many as before."""
        if self._own_units is None or isinstance(self._problem.backend, HoldsShards):
            return
        before, own = self._own_units
        seen = self._first_unit + self._units - before
        if seen != own:
            msg = (
                f"rank {self._problem.backend.world.rank} drew targets for {seen} units where its data had {own} when "
                "they were counted: sampled targets go by unit number, rank by rank. Give the same data at each pass."
            )
            raise ValueError(msg)

    def _count_units(self) -> tuple[int, int]:
        """How many units the ranks before this one have, and this one: one forward pass over the data, once."""
        problem, engine = self._problem, self._engine
        world = problem.backend.world
        sums = torch.zeros(1, dtype=torch.float64, device=problem.parameters.device)
        each = sums.new_zeros(world.size)
        with problem.together(sums, each):
            units = 0
            with problem.opened():
                engine.begin_pass()
                for piece in problem.pieces_in_step():
                    with engine.linearized(piece) as lin, torch.no_grad():
                        numbers = _UnitNumbers(seed=0, sample=0, first_unit=0, device=lin.y[0].device)
                        self._loss.sample_targets(lin.y, piece.batch, numbers)
                    units += numbers.units if piece.loss_weight != 0.0 else 0
            each[world.rank] = units
        # in the counts' place, which are exact whatever the vectors' dtype
        _, each = problem.backend.reduce((sums, each))
        return int(each[: world.rank].sum()), units

    lays_out_last = True

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The sum over units of the mean over samples of g <g, v>."""
        if self._counted() is not lin:  # another microbatch: its units follow those of the last
            self._counted = weakref.ref(lin)  # weakly, so that no graph is held for the counting's sake
            self._first_unit += self._units
        dy = lin.jvp(V)
        outer: Outputs | None = None
        for sample in range(self.num_samples):
            part = self._sampled_outer(lin.y, batch, dy, sample)
            outer = part if outer is None else tuple(o.add_(p) for o, p in zip(outer, part, strict=True))
        assert outer is not None
        return lin.vjp(tuple(o.div_(self.num_samples) for o in outer) if self.num_samples > 1 else outer)

    def _sampled_outer(self, y: Outputs, batch: Any, dy: Outputs, sample: int) -> Outputs:
        """The sum over units of r <r, dy>, r the units' gradients in the outputs at their targets of this draw."""
        numbers = _UnitNumbers(seed=self.seed, sample=sample, first_unit=self._first_unit, device=y[0].device)
        with torch.no_grad():
            targets = self._loss.sample_targets(y, batch, numbers)
        self._units = numbers.units
        if isinstance(self._loss, GivesUnitOuter) and has_closed_outer(self._loss, "sampled_losses"):
            return self._loss.unit_outer(y, batch, dy, targets)
        return outer_by_autograd(lambda leaves: self._loss.sampled_losses(leaves, batch, targets), y, dy)


def _nothing() -> None:
    """What a reference gives before there is anything to refer to."""


@define(kw_only=True)
class _UnitNumbers:
    """Numbers in (0, 1) for the units from `first_unit` on."""

    seed: int
    sample: int
    first_unit: int
    device: torch.device
    units: int = 0

    def __call__(self, units: int, each: int = 1) -> Tensor:
        """A row of `each` numbers a unit: a function of (seed, sample, unit number, each) and nothing else."""
        self.units = units
        key = probes.stream_key(self.seed, self.sample, f"targets/{each}")
        drawn = probes.uniforms(units * each, key=key, start=self.first_unit * each, device=self.device)
        return drawn.view(units, each)
