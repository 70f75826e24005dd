r"""Sequences and images with labels: cross-entropy, squared error or binary cross-entropy, as the model's task is.

The task is ``problem_type`` by transformers' own rule: the configuration's, else one output is a regression, integer
labels are one of the classes, and others are a yes or no for each.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

from attrs import Factory, evolve, field, frozen, validators
from torch import Tensor, nn

from curvkit_core import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from curvkit_core.kernels import Kernels
from curvkit_core.losses.protocol import Outputs, Uniforms
from curvkit_hf.batch_fields import check_targets, labels_of, model_inputs
from curvkit_hf.checked_inputs import check_inputs
from curvkit_hf.inner_model import call_for_logits, inner_model
from curvkit_hf.second_derivatives import twice_differentiable
from curvkit_hf.unusable import refuse_unusable

__all__ = ["ImageClassificationLoss", "SequenceClassificationLoss"]

_SINGLE, _MULTI, _REGRESSION = "single_label_classification", "multi_label_classification", "regression"
_TASKS = (_SINGLE, _MULTI, _REGRESSION)


@frozen(eq=False, kw_only=True)
class SequenceClassificationLoss:
    r"""The mean over examples of the loss of models ``*ForSequenceClassification``; equals their own ``.loss``.

    For logits z (C,) and labels y: :math:`-\log\operatorname{softmax}(z)_y`; :math:`\frac1C\sum_c(z_c - y_c)^2`;
    or :math:`-\frac1C\sum_c [y_c\log p_c + (1 - y_c)\log(1 - p_c)]` with :math:`p_c` the logit's sigmoid.

    Parameters
    ----------
    problem_type : {None, "single_label_classification", "multi_label_classification", "regression"}
        None: the model's configuration decides, else the number of outputs and the labels' dtype.
    ignore_index : int
        A label that does not count, where it is one of the classes.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is an example. Several labels, and several regressed numbers, are averaged within it.
    """

    problem_type: str | None = field(default=None, validator=validators.in_((None, *_TASKS)))
    ignore_index: int = -100
    kernels: Kernels = Factory(Kernels)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (B, C)."""
        inputs = model_inputs(batch)
        check_inputs(model, inputs)
        logits = call_for_logits(model, inputs)
        labels = labels_of(batch, type(self).__name__)
        declared = _declared(model)
        if self.problem_type is None and declared is not None and declared != _task(logits, labels):
            msg = (
                f"{type(inner_model(model)).__name__}'s configuration says problem_type={declared!r}, and "
                f"{tuple(labels.shape)} labels of {labels.dtype} on {logits.shape[-1]} outputs look like "
                f"{_task(logits, labels)!r}. Pass {type(self).__name__}(problem_type={declared!r}), or a Problem, "
                "which looks it up."
            )
            raise ValueError(msg)
        if (self.problem_type or _task(logits, labels)) == _SINGLE:
            check_targets(labels, logits.shape[-1], self.ignore_index, type(self).__name__)
        return (logits,)

    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        """Sum of the examples' losses."""
        loss, pair = self._part(y, batch)
        return loss.loss_sum(y, pair)

    def unit_losses(self, y: Outputs, batch: Any) -> Tensor:
        """One loss an example."""
        loss, pair = self._part(y, batch)
        return loss.unit_losses(y, pair)

    def num_units(self, batch: Any) -> float | Tensor:
        """Examples whose label counts."""
        labels = labels_of(batch, type(self).__name__)
        one_of_classes = not labels.is_floating_point() and self.problem_type in (None, _SINGLE)
        return (labels != self.ignore_index).sum() if one_of_classes else labels.shape[0]

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        """The loss's own Hessian in the logits times dy; it is convex in them."""
        loss, pair = self._part(y, batch)
        return loss.ggn(y, pair, dy)

    def sample_targets(self, y: Outputs, batch: Any, uniforms: Uniforms) -> Tensor:
        """Labels drawn from the model: a class, a yes or no for each, or Gaussian numbers."""
        loss, pair = self._part(y, batch)
        return loss.sample_targets(y, pair, uniforms)

    def sampled_losses(self, y: Outputs, batch: Any, targets: Tensor) -> Tensor:
        """Each example's loss at the drawn labels, on the scale whose second moment is the loss's Hessian."""
        loss, pair = self._part(y, batch)
        return loss.sampled_losses(y, pair, targets)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """Look up the configuration's task, and refuse models whose curvature cannot be had."""
        refuse_unusable(model)
        config = getattr(inner_model(model), "config", None)
        # one output is a regression whatever the labels' dtype: none of them is an index that may be ignored
        task = _REGRESSION if getattr(config, "num_labels", None) == 1 else None
        return evolve(self, problem_type=self.problem_type or _declared(model) or task), ()

    def second_order(self, model: nn.Module) -> AbstractContextManager[None]:
        """Eager attention and experts in the place of fused ones."""
        return twice_differentiable(model)

    def with_kernels(self, kernels: Kernels) -> Self:
        """The same loss with the problem's kernels."""
        return evolve(self, kernels=kernels)

    def _part(
        self, y: Outputs, batch: Any
    ) -> tuple[CrossEntropyLoss | BCEWithLogitsLoss | MSELoss, tuple[None, Tensor]]:
        """Core's loss of this task, and what it reads as a batch: the labels in the logits' shape."""
        (logits,), labels = y, labels_of(batch, type(self).__name__).to(y[0].device)
        task = self.problem_type or _task(logits, labels)
        if task == _SINGLE:
            return CrossEntropyLoss(ignore_index=self.ignore_index, kernels=self.kernels), (None, labels.reshape(-1))
        if labels.numel() != logits.numel():
            msg = (
                f"{type(self).__name__}: labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}: "
                f"expected a number for each logit, the task being {task!r}."
            )
            raise ValueError(msg)
        numbers = labels.reshape(logits.shape).to(logits.dtype)
        return (BCEWithLogitsLoss() if task == _MULTI else MSELoss()), (None, numbers)


@frozen(eq=False, kw_only=True)
class ImageClassificationLoss(SequenceClassificationLoss):
    """The mean over images of the loss of models ``*ForImageClassification``; equals their own ``.loss``.

    Everything is as in :class:`SequenceClassificationLoss`, the batch's inputs being ``pixel_values``.
    """


def _declared(model: nn.Module) -> str | None:
    return getattr(getattr(inner_model(model), "config", None), "problem_type", None)


def _task(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[-1] == 1:
        return _REGRESSION
    return _MULTI if labels.is_floating_point() else _SINGLE
