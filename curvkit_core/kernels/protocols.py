"""What a kernel is called with, one Protocol an operation, and the set of them that a problem carries."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen
from torch import Tensor

from curvkit_core.kernels.ce_hvp import ce_hvp

__all__ = ["CeHvp", "Kernels"]


class CeHvp(Protocol):
    """Softmax cross-entropy's output-Hessian product; see :func:`curvkit_core.kernels.ce_hvp`."""

    def __call__(self, logits: Tensor, weight: Tensor, u: Tensor, /) -> Tensor: ...


@frozen(kw_only=True)
class Kernels:
    """The kernels a problem uses, resolved: nothing below a run looks anything up.

    Parameters
    ----------
    ce_hvp : callable
        Cross-entropy's output-Hessian product.
    """

    ce_hvp: CeHvp = ce_hvp
