r"""Mean squared error.

A unit is an example (a row of the outputs); its loss is the mean over the example's D elements, so the risk equals
``torch.nn.MSELoss()`` over the whole data. The loss's own Hessian is :math:`2/D` times the identity. It is the negative
log-likelihood, up to a constant, of a Gaussian around the prediction with variance :math:`D/2` in each element.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from curvkit_core.losses.batch_layout import BatchLayout, by_example
from curvkit_core.losses.drawing import draw_normal
from curvkit_core.losses.protocol import Outputs, Uniforms

__all__ = ["MSELoss"]


@frozen(kw_only=True)
class MSELoss:
    r"""Squared error :math:`\frac1N\sum_n \frac1D \|f_n - t_n\|^2` over all examples n of all batches.

    Parameters
    ----------
    target : str or None
        Key of the target where batches are mappings; None: the first of labels, label, targets, target, y.
    inputs : tuple of str or None
        Keys handed to the model by position; None: all but the target's, by name.
    """

    target: str | None = None
    inputs: tuple[str, ...] | None = None
    _layout: BatchLayout = field(init=False, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Predictions, shape (N, ...)."""
        return (self._layout.run(model, batch),)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Sum of the examples' losses."""
        return self.unit_losses(y, batch).sum()

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss an example: the mean of its squared errors."""
        return self.sampled_losses(y, batch, self._layout.target_of(batch))

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """Gaussian targets around the predictions with variance D/2: the likelihood whose negative log is the loss."""
        prediction = y[0]
        elements = prediction.numel() // max(1, prediction.shape[0])
        return draw_normal(prediction, 0.5 * elements, uniforms(prediction.shape[0], elements))

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        """One loss an example at the given targets: the mean of its squared errors."""
        prediction, target = y[0], targets
        if prediction.shape != target.shape:
            msg = (
                f"predictions have shape {tuple(prediction.shape)}, targets {tuple(target.shape)}: expected equal "
                "shapes "
                "(broadcasting would average over pairs). Reshape the target, for instance target[:, None]."
            )
            raise ValueError(msg)
        wide = torch.promote_types(prediction.dtype, torch.float32)
        return by_example((prediction.to(wide) - target.to(wide)).square()).mean(1)

    def num_units(self, batch: Any) -> int:
        """Examples."""
        return self._layout.target_of(batch).shape[0]

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """2/D dy: the loss is quadratic."""
        elements = max(1, y[0].numel() // max(1, y[0].shape[0]))
        return (dy[0] * (2.0 / elements),)

    @_layout.default
    def _read_layout(self) -> BatchLayout:
        return BatchLayout(target=self.target, inputs=self.inputs)
