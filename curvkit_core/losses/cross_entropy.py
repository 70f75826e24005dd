r"""Softmax cross-entropy on logits.

A unit is one target that is not ignored. With class weights w and smoothing :math:`\epsilon` the unit's target mass is
:math:`q_c = (1-\epsilon) w_y [c = y] + \epsilon w_c / C`, its loss :math:`-\sum_c q_c \log p_c`, and the loss's own
Hessian :math:`s\,(\operatorname{diag} p - p p^\top)` with :math:`s = \sum_c q_c`: as ``torch.nn.CrossEntropyLoss``.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from attrs import Factory, evolve, field, frozen, validators
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core.kernels import Kernels
from curvkit_core.kernels.ce_outer import ce_outer
from curvkit_core.losses.batch_layout import BatchLayout
from curvkit_core.losses.drawing import draw_classes
from curvkit_core.losses.protocol import Outputs, Uniforms
from curvkit_core.losses.unit_gradients import outer_by_autograd

__all__ = ["CrossEntropyLoss"]


@frozen(kw_only=True, eq=False)
class CrossEntropyLoss:
    r"""Cross-entropy :math:`\sum_i w_{y_i}(-\log p_{i,y_i}) / \sum_i w_{y_i}` over all targets i of all batches.

    Over the whole data this is ``torch.nn.CrossEntropyLoss(reduction="mean")`` of one batch that holds everything.
    Targets are class indices, shape (N, ...), or class probabilities shaped like the logits (N, C, ...): the classes
    are axis 1. Batches are ``(*inputs, target)`` or mappings, see `target` and `inputs`.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    weight : Tensor, shape (C,), or None
        Class weights. As in torch the divisor is then the targets' total weight.
    target : str or None
        Key of the target where batches are mappings; None: the first of labels, label, targets, target, y.
    inputs : tuple of str or None
        Keys handed to the model by position; None: all but the target's, by name.
    kernels : Kernels
        Set by the problem.
    """

    ignore_index: int = -100
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    weight: Tensor | None = None
    target: str | None = None
    inputs: tuple[str, ...] | None = None
    kernels: Kernels = Factory(Kernels)
    _layout: BatchLayout = field(init=False, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits, shape (N, C, ...): any rank from 2."""
        logits = self._layout.run(model, batch)
        if logits.ndim < 2:
            msg = f"logits have shape {tuple(logits.shape)}: expected (N, C) or (N, C, ...), the classes on axis 1."
            raise ValueError(msg)
        self._check_classes(self._target(batch), logits.shape[1])
        return (logits,)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Weighted sum of the targets' losses."""
        return self._losses(y, batch).sum()

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss a target that is not ignored, in the order of the flattened targets."""
        return self._losses(y, batch)

    def num_units(self, batch: Any) -> float | Tensor:
        """Targets that are not ignored, each with its class's weight; rows where targets are probabilities."""
        target = self._target(batch)
        if target.is_floating_point():
            return target.numel() // max(1, target.shape[1])
        keep = target != self.ignore_index
        if self.weight is None:
            return keep.sum()
        return self.weight.to(target.device)[target[keep]].sum()

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """s (p*dy - p <p, dy>) in every row; the loss is convex in the logits, so this is its whole Hessian."""
        (logits,), (direction,) = y, dy
        rows, target = self._rows(logits, batch)
        mass = self._target_mass(rows, target)
        lead = direction.ndim - logits.ndim
        u = direction.movedim(1 + lead, -1)
        shape = u.shape
        u = u.reshape(*shape[:lead], *rows.shape)
        return (self.kernels.ce_hvp(rows, mass, u).reshape(shape).movedim(-1, 1 + lead),)

    def unit_outer(self, y: Outputs, batch: Any, dy: Outputs, targets: Tensor | None = None) -> Outputs:
        """r <r, dy> in every row: r = s p - q of the row's own target, or sqrt(s) (p - e_c) of the drawn class c."""
        (logits,), (direction,) = y, dy
        rows, target = self._rows(logits, batch)
        if targets is None and target.is_floating_point():  # q is a whole row then
            return outer_by_autograd(lambda leaves: self.unit_losses(leaves, batch), y, dy)
        lead = direction.ndim - logits.ndim
        u = direction.movedim(1 + lead, -1)
        flat = u.reshape(*u.shape[:lead], *rows.shape)
        mass = self._target_mass(rows, target)
        if targets is None:
            hit = torch.where(self._keep(target), target, 0)
            weight = self._class_weight(rows)
            hit_mass, spread = (1.0 - self.label_smoothing) * weight[hit], None
            if self.label_smoothing:
                spread = self.label_smoothing / rows.shape[1] * weight
        else:
            mass = mass.sqrt()
            hit = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            hit[self._keep(target)] = targets
            hit_mass, spread = mass, None
        hit_mass = torch.where(mass != 0, hit_mass, 0.0)
        return (ce_outer(rows, mass, hit, hit_mass, spread, flat).reshape(u.shape).movedim(-1, 1 + lead),)

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """A class for each target that is not ignored, drawn from its row's softmax: shape (U,)."""
        rows, target = self._rows(y[0], batch)
        kept = rows[self._keep(target)]
        return draw_classes(kept, uniforms(len(kept))[:, 0])

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        r"""sqrt(s) (-log p) of the drawn class, s being the mass of the unit's own target.

        So class weights and smoothing weigh the data as they do in the loss, and the drawn class is the softmax's.
        """
        rows, target = self._rows(y[0], batch)
        keep = self._keep(target)
        kept = rows[keep].to(torch.promote_types(rows.dtype, torch.float32))
        mass = self._target_mass(rows.detach(), target)[keep]
        return functional.cross_entropy(kept, targets, reduction="none") * mass.to(kept.dtype).sqrt()

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss with the problem's kernels."""
        return evolve(self, kernels=kernels)

    @_layout.default
    def _read_layout(self) -> BatchLayout:
        return BatchLayout(target=self.target, inputs=self.inputs)

    def _target(self, batch: Any) -> Tensor:
        """Class indices in int64, or probabilities."""
        target = self._layout.target_of(batch)
        if not target.is_floating_point():
            return target.long()
        if target.ndim < 2:
            msg = (
                f"targets of dtype {target.dtype} and shape {tuple(target.shape)} are read as probabilities: expected "
                "the logits' shape, (N, C, ...). For class indices pass target.long()."
            )
            raise ValueError(msg)
        return target

    def _check_classes(self, target: Tensor, classes: int) -> None:
        """Refuse a target that is no class: on a GPU torch's own check ends the process's use of the device."""
        if target.is_floating_point() or torch.compiler.is_compiling():  # which cannot branch on data
            return
        wrong = ((target < 0) | (target >= classes)) & (target != self.ignore_index)
        if bool(wrong.any()):
            place = tuple(wrong.nonzero()[0].tolist())
            msg = (
                f"the target at {place} is {int(target[place])}: expected 0 <= target < {classes}, the logits' "
                f"classes, or ignore_index={self.ignore_index}."
            )
            raise ValueError(msg)

    def _rows(self, logits: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits as (rows, C), targets as (rows,) or (rows, C)."""
        target = self._target(batch)
        expected = logits.shape if target.is_floating_point() else logits.shape[:1] + logits.shape[2:]
        if target.shape != expected:
            msg = (
                f"targets have shape {tuple(target.shape)}, logits "
                f"{tuple(logits.shape)}: expected targets {tuple(expected)}."
            )
            raise ValueError(msg)
        rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        flat = target.movedim(1, -1).reshape(rows.shape) if target.is_floating_point() else target.reshape(-1)
        return rows, flat

    def _keep(self, target: Tensor) -> Tensor:
        """Which rows count: (rows,) of bool."""
        if target.is_floating_point():
            return torch.ones(target.shape[0], dtype=torch.bool, device=target.device)
        return target != self.ignore_index

    def _losses(self, y: Outputs, batch: Any) -> Tensor:
        """The losses of the targets that count: (U,)."""
        rows, target = self._rows(y[0], batch)
        keep = self._keep(target)
        if torch.compiler.is_compiling():  # which cannot branch on data: ignored ones stay in, as zeros
            rows = torch.where(keep[:, None], rows, 0.0)
        elif not bool(keep.all()):
            # taken out, so that inf or NaN in an ignored row reaches no sum; a mask would cost as many passes over
            # the logits in each derivative, also where nothing is ignored
            rows, target = rows[keep], target[keep]
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return functional.cross_entropy(
            rows,
            target.to(rows) if target.is_floating_point() else target,
            weight=None if self.weight is None else self.weight.to(rows),
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def _target_mass(self, rows: Tensor, target: Tensor) -> Tensor:
        """s of each row: the sum over classes of its smoothed, weighted target; 0 for an ignored row."""
        classes, smooth = rows.shape[1], self.label_smoothing
        wide = torch.promote_types(rows.dtype, torch.float32)
        weight = self._class_weight(rows)
        spread = smooth / classes * weight.sum()
        if target.is_floating_point():
            # smoothing replaces t by (1 - eps) t + eps / C, then each class is weighted
            return (1.0 - smooth) * (target.to(wide) @ weight) + spread
        keep = self._keep(target)
        mass = (1.0 - smooth) * weight[torch.where(keep, target, 0)] + spread
        return torch.where(keep, mass, 0.0)

    def _class_weight(self, rows: Tensor) -> Tensor:
        wide = torch.promote_types(rows.dtype, torch.float32)
        if self.weight is None:
            return torch.ones(rows.shape[1], dtype=wide, device=rows.device)
        return self.weight.to(rows.device, wide)
