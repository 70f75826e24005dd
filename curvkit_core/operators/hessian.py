r"""The Hessian :math:`\nabla^2 L` of the data's risk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from curvkit_core.linearize import Linearization
from curvkit_core.operators.data_operator import DataOperator

__all__ = ["HessianOperator"]


class HessianOperator(DataOperator):
    r"""The Hessian :math:`\nabla^2 L`, :math:`L(\theta) = \sum_u \ell_u(\theta) / N` over all units u of the data.

    Symmetric, in general indefinite. Exact: by double backward (Pearlmutter, Neural Computation 6(1), 1994). A product
    costs two gradients in time on a kept graph, whose memory is about 2.3 forward graphs; rebuilt, three gradients.

    Parameters
    ----------
    problem : Problem
        Any loss will do, also a CallableLoss.
    strategy : {"auto", "reverse", "lean", "finite-difference"}
    cache : {"auto", "keep", "rebuild", "offload"}
    memory_budget : int, str or None
    compile : bool
        How products are made: cost, never meaning (finite differences excepted). See
        :class:`curvkit_core.linearize.EngineOptions`.
    """

    lays_out_last = True

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The Hessian of the microbatch's loss sum times V."""
        return lin.hvp(V)
