"""What a kernel is called with, one Protocol an operation, and the set of them that a problem carries."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen
from torch import Tensor

from curvkit_core.kernels.ce_hvp import ce_hvp
from curvkit_core.kernels.linear_ce_chunked import HeadInputs, Wanted, chunked_linear_ce
from curvkit_core.kernels.linear_ce_options import LinearCeOptions

__all__ = ["CeHvp", "Kernels", "LinearCe"]


class CeHvp(Protocol):
    """Softmax cross-entropy's output-Hessian product; see :func:`curvkit_core.kernels.ce_hvp`."""

    def __call__(self, logits: Tensor, weight: Tensor, u: Tensor, /) -> Tensor: ...


class LinearCe(Protocol):
    r"""Cross-entropy of a linear head in four sweeps over the rows, of which none holds the (N, V) logits.

    Numbers only: no sweep records a graph. :func:`curvkit_core.kernels.differentiable_losses` makes them a loss that
    can be differentiated twice in every mode, the same for every implementation.

    `y` are hidden (N, D), weight (V, D) and bias (V,) or None; `targets` are classes (N,), and `options` says which of
    them are ignored and what stands between :math:`hW^\top + b` and a row's loss :math:`\ell_i`. Ignored rows may hold
    anything. Sums are float32 at least; results have the dtypes of the inputs whose derivatives they are.
    """

    def __call__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, /) -> Tensor:
        r"""Give :math:`\ell_i`: (N,), float32 at least, 0 for a row that does not count."""
        ...

    def gradient(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, weights: Tensor, wanted: Wanted, /
    ) -> tuple[Tensor, ...]:
        r"""Give :math:`\sum_i c_i\nabla\ell_i`, `weights` c being (N,): a tensor for each of y that is `wanted`.

        What is not wanted must cost nothing.
        """
        ...

    def slopes(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, along: HeadInputs, also: HeadInputs | None, /
    ) -> Tensor:
        r"""Give :math:`\langle\nabla\ell_i, d\rangle`, or with `also` :math:`\langle d,\nabla^2\ell_i\,e\rangle`: (N,).

        `along` d and `also` e are shaped as y; None in one of their places is zero, and costs nothing.
        """
        ...

    def product(
        self,
        y: HeadInputs,
        targets: Tensor,
        options: LinearCeOptions,
        weights: Tensor | None,
        along: HeadInputs,
        wanted: Wanted,
        /,
        *,
        gauss_newton: bool,
    ) -> tuple[Tensor, ...]:
        r"""Give :math:`\sum_i c_i A_i d_k` for every k: (k, ...) for each of y that is `wanted`.

        :math:`A_i` is the Hessian :math:`\nabla^2\ell_i`, or with `gauss_newton` its part :math:`K_i^\top H_i K_i`, K
        the Jacobian of the row's logits and H the loss's Hessian in them. `along` has a leading axis k; `weights` None
        is ones.
        """
        ...


@frozen(kw_only=True)
class Kernels:
    """The kernels a problem uses, resolved: nothing below a run looks anything up.

    Parameters
    ----------
    ce_hvp : callable
        Cross-entropy's output-Hessian product.
    linear_ce : LinearCe
        Cross-entropy of a linear head, from hidden states.
    """

    ce_hvp: CeHvp = ce_hvp
    linear_ce: LinearCe = chunked_linear_ce
