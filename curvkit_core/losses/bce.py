r"""Binary cross-entropy on logits.

A unit is an example (a row of the outputs); its loss is the mean over the example's D labels, so the risk equals
``torch.nn.BCEWithLogitsLoss()`` over the whole data. With weights c on positive labels the loss's own Hessian is
diagonal, :math:`\frac1D (c t + 1 - t)\, p(1-p)`.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core.losses.batch_layout import BatchLayout, by_example
from curvkit_core.losses.drawing import draw_labels
from curvkit_core.losses.protocol import Outputs, Uniforms

__all__ = ["BCEWithLogitsLoss"]


@frozen(kw_only=True, eq=False)
class BCEWithLogitsLoss:
    r"""Binary cross-entropy :math:`\frac1N\sum_n\frac1D\sum_d -[c\,t\log p + (1-t)\log(1-p)]`, p the logit's sigmoid.

    Parameters
    ----------
    pos_weight : Tensor or None
        c, one number or one a label; broadcasts against the logits.
    target : str or None
        Key of the target where batches are mappings; None: the first of labels, label, targets, target, y.
    inputs : tuple of str or None
        Keys handed to the model by position; None: all but the target's, by name.
    """

    pos_weight: Tensor | None = None
    target: str | None = None
    inputs: tuple[str, ...] | None = None
    _layout: BatchLayout = field(init=False, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits, shape (N, ...)."""
        return (self._layout.run(model, batch),)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Sum of the examples' losses."""
        return self.unit_losses(y, batch).sum()

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss an example: the mean over its labels."""
        logits, target = self._wide(y[0], batch)
        positive = None if self.pos_weight is None else self.pos_weight.to(logits)
        losses = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=positive, reduction="none")
        return by_example(losses).mean(1)

    def num_units(self, batch: Any) -> int:
        """Examples."""
        return self._layout.target_of(batch).shape[0]

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """The diagonal Hessian times dy; the loss is convex in the logits."""
        logits, target = self._wide(y[0], batch)
        p = torch.sigmoid(logits)
        curvature = self._share(logits, target) * p * (1.0 - p)
        return ((dy[0].to(curvature.dtype) * curvature).to(dy[0].dtype),)

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """A label 0 or 1 for every logit, drawn from its sigmoid."""
        logits, _ = self._wide(y[0], batch)
        return draw_labels(logits, uniforms(logits.shape[0], logits.numel() // max(1, logits.shape[0])))

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        """An example's losses at the drawn labels, each times sqrt(m), m what its label counts in the loss; summed.

        m = (c t + 1 - t) / D with the data's own label t: the mean over D labels is a likelihood of temperature D.
        """
        logits, target = self._wide(y[0], batch)
        losses = functional.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
        return by_example(losses * self._share(logits, target).sqrt()).sum(1)

    def _share(self, logits: Tensor, target: Tensor) -> Tensor:
        """(c t + 1 - t) / D: what each label counts in its example's loss."""
        positive = 1.0 if self.pos_weight is None else self.pos_weight.to(logits)
        elements = max(1, logits.numel() // max(1, logits.shape[0]))
        return (positive * target + 1.0 - target) / elements

    def _wide(self, logits: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        target = self._layout.target_of(batch)
        if logits.shape != target.shape:
            msg = (
                f"logits have shape {tuple(logits.shape)}, targets {tuple(target.shape)}: expected equal shapes. "
                "Reshape the target, for instance target[:, None]."
            )
            raise ValueError(msg)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(wide), target.to(wide)

    @_layout.default
    def _read_layout(self) -> BatchLayout:
        return BatchLayout(target=self.target, inputs=self.inputs)
