"""What a loss adapter is: three methods, and abilities it may add, each a Protocol of its own found by isinstance.

The network hands over a tuple y of graph tensors, and everything else is the loss's own: what a logit, a target, a unit
or a head is. A *unit* is what the risk averages over: an example, or a target token that is not ignored.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from curvkit_core.kernels import Kernels

__all__ = [
    "BindsToModel",
    "ComputesUnitLosses",
    "GivesGGN",
    "GivesUnitOuter",
    "LossAdapter",
    "Outputs",
    "PreparesSecondOrder",
    "SamplesTargets",
    "Uniforms",
    "UsesKernels",
]

Outputs = tuple[Tensor, ...]


@runtime_checkable
class LossAdapter(Protocol):
    r"""A loss :math:`L = \sum_b \ell(y_b) / \sum_b N_b` over batches b, told in sums."""

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Run the model: y, what the loss is a function of, as graph tensors. ``(logits,)``, as a rule."""
        ...

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """The SUM of the units' losses, a scalar; never a mean."""
        ...

    def num_units(self, batch: Any) -> float | Tensor:
        """What this batch adds to the divisor: one number, on any device."""
        ...


@runtime_checkable
class GivesGGN(Protocol):
    """A loss with a closed form for its own curvature. Needed where y has more than one tensor."""

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """The positive part of loss_sum's curvature at y times dy, each shaped as dy; one leading axis k is allowed."""
        ...


@runtime_checkable
class ComputesUnitLosses(Protocol):
    """A loss that can tell its units apart: the Fishers and the gradients' covariance need it.

    Their products are then J^T J of the units' losses, in O(P) memory: no gradient is formed per unit.
    """

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """Each unit's loss, shape (U,), in batch order, ignored ones left out; their sum is ``loss_sum``."""
        ...


@runtime_checkable
class GivesUnitOuter(Protocol):
    r"""A loss with a closed form for outer products of its units' gradients; without it, autograd does them."""

    def unit_outer(self, y: Outputs, batch: Any, dy: Outputs, targets: Any = None) -> Outputs:
        r"""The sum over units u of :math:`r_u \langle r_u, dy\rangle`, shaped as dy; one leading axis k is allowed.

        :math:`r_u` is the gradient in y of ``unit_losses``, or of ``sampled_losses`` at `targets` where they are given.
        """
        ...


class Uniforms(Protocol):
    """Where sampled targets get their randomness: numbers that depend on (seed, sample, unit number) alone."""

    def __call__(self, units: int, each: int = 1) -> Tensor:
        """Give (units, each) numbers in (0, 1), float64: a row for each of this batch's units, in their order."""
        ...


@runtime_checkable
class SamplesTargets(Protocol):
    r"""A loss that is a likelihood, or a power of one, and can draw targets from it: the sampled Fisher needs it.

    Its law: with :math:`r_u` the gradient in y of unit u's sampled loss, :math:`E\sum_u r_u r_u^\top` over the drawn
    targets is the loss sum's own Hessian in y, the one that `ggn` multiplies with. So the sampled Fisher's mean is the
    GGN, whatever the loss's temperature: a unit whose loss is its negative log-likelihood divided by a temperature
    :math:`T_u` has :math:`H_u = E[\nabla\mathrm{nll}_u\nabla\mathrm{nll}_u^\top]/T_u`, and its sampled loss is
    :math:`\mathrm{nll}_u/\sqrt{T_u}`. (A mean over D labels has T = D; a unit that counts s times has T = 1/s.)
    """

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Any:
        """Draw a target for every unit that counts, in the order of ``unit_losses``: calls `uniforms` once.

        What it gives is read by `sampled_losses` alone.
        """
        ...

    def sampled_losses(self, y: Outputs, batch: Any, targets: Any) -> Tensor:
        """Each unit's loss at the drawn `targets`, scaled as the law says: shape (U,), differentiable in y."""
        ...


@runtime_checkable
class PreparesSecondOrder(Protocol):
    """A loss that knows how to put its models where second derivatives exist (eager attention, eager experts)."""

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround a forward and its backward passes; the model is as it was afterwards."""
        ...


@runtime_checkable
class BindsToModel(Protocol):
    """A loss that looks at the model once, to compute with less: where its linear head is, for instance."""

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """The same loss for this model, and what a reader of results should know, a line each.

        A problem calls it once, before its first product, with its first microbatch, the model in the problem's mode
        and no gradients. Cost is all that may change: a loss that was not bound must be right too.
        """
        ...


@runtime_checkable
class UsesKernels(Protocol):
    """A loss whose curvature goes through kernels that the problem chooses."""

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss, computing with `kernels`."""
        ...
