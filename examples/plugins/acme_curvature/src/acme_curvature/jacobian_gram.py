r"""The Gram matrix of the network's Jacobian, :math:`\frac1N\sum_u J_u^\top J_u`."""

from typing import Any

from torch import Tensor

from acme_curvature.config import JacobianGramConfig
from curvkit_core import CallableLoss, Problem
from curvkit_core.linearize import Linearization
from curvkit_core.operators import DataOperator


class JacobianGramOperator(DataOperator):
    r"""The Gram matrix of the network's Jacobian, :math:`\frac1N\sum_u J_u^\top J_u`.

    It is the GGN with the loss's curvature left out. Its nonzero eigenvalues are those of the empirical neural
    tangent kernel :math:`J J^\top` over the whole data, divided by the number N of units [1]_. The loss serves
    to find the outputs and to count the units; outputs of targets that it ignores are not left out.

    Parameters
    ----------
    problem : Problem
        Its loss must tell the outputs: a CallableLoss is refused.
    output : int or None
        One coordinate of the outputs' last dimension, or all of them.

    References
    ----------
    .. [1] Jacot, Gabriel and Hongler, NeurIPS 31, 2018.
    """

    def __init__(self, problem: Problem, *, output: int | None = None) -> None:
        super().__init__(problem)
        if isinstance(problem.loss, CallableLoss):
            msg = (
                "CallableLoss does not tell the network's outputs. Use a loss adapter, for instance CrossEntropyLoss()."
            )
            raise TypeError(msg)
        self.output = output

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """J^T J V, a sum over the batch's units; core divides by their number once, after all batches."""
        return lin.vjp(tuple(self._chosen(dy) for dy in lin.jvp(V)))

    def _chosen(self, dy: Tensor) -> Tensor:
        if self.output is None:
            return dy
        if self.output >= dy.shape[-1]:
            msg = (
                f"output={self.output} is out of range: the network has {dy.shape[-1]} outputs, "
                f"numbered from 0. Pass at most {dy.shape[-1] - 1}."
            )
            raise ValueError(msg)
        kept = dy.new_zeros(dy.shape)
        kept[..., self.output] = dy[..., self.output]
        return kept


def build(problem: Problem, config: JacobianGramConfig) -> JacobianGramOperator:
    """Make the operator from a run file's table."""
    return JacobianGramOperator(problem, output=config.output)
