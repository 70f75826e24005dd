"""A user's own ``fn(model, batch) -> mean loss``, for the Hessian without an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from curvkit_core.losses.batch_tree import tensors
from curvkit_core.losses.protocol import Outputs

__all__ = ["CallableLoss"]


class CallableLoss:
    r"""The risk :math:`\sum_b N_b\,f(\text{model}, b) / \sum_b N_b` of a function that gives each batch's mean loss.

    Only the Hessian can be had: where the model ends and the loss begins is not told, so the generalized Gauss-Newton
    matrix and the Fishers refuse this loss by name.

    Parameters
    ----------
    fn : callable
        ``fn(model, batch)`` -> scalar tensor, the MEAN loss over the batch's units.
    num_units : callable or None
        ``num_units(batch)`` -> how many units that mean is over. None: the leading size of the batch's first tensor,
        which is right for examples and wrong for tokens with padding.
    """

    #: What is a function of the model's outputs alone is unknown, so there is no Gauss-Newton split.
    hessian_only = True

    def __init__(
        self,
        fn: Callable[[nn.Module, Any], Tensor],
        *,
        num_units: Callable[[Any], float | Tensor] | None = None,
    ) -> None:
        if not callable(fn):
            msg = f"fn={fn!r} is a {type(fn).__name__}: expected a callable fn(model, batch) -> mean loss."
            raise TypeError(msg)
        self.fn = fn
        self._num_units = num_units

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """The batch's mean loss; there is nothing else to differentiate through."""
        loss = self.fn(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            msg = f"the loss function returned {got}: expected a scalar tensor, the mean loss over the batch."
            raise ValueError(msg)
        return (loss.reshape(()),)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """The mean times the number of units."""
        return y[0] * self.num_units(batch)

    def num_units(self, batch: Any) -> float | Tensor:
        """What `num_units` says, or the leading size of the batch's first tensor."""
        if self._num_units is not None:
            return self._num_units(batch)
        first = next(tensors(batch), None)
        if first is None or first.ndim == 0:
            msg = (
                f"the number of units in a batch of type {type(batch).__name__} cannot be told: it holds no tensor "
                "with "
                "a leading axis. Pass num_units=, a function of the batch."
            )
            raise ValueError(msg)
        return first.shape[0]
