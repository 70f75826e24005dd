"""What the laws of losses are tried on: the case's model and batches, and the loss as a user has it.

A loss tagged "classification" or "regression" that names no models of its own (`matches`) runs on a small MLP where
there is no case. One that binds to its model is bound by a problem first, unless the case says no.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_core.losses import BindsToModel, LossAdapter, PreparesSecondOrder
from curvkit_core.problem import Problem
from curvkit_core.testing.check import SkippedError
from curvkit_core.testing.subject import Subject

__all__ = ["bound", "made_loss", "model_and_batches", "outputs", "setting", "with_outputs"]


def made_loss(subject: Subject) -> Any:
    """The loss as its factory makes it."""
    loss = subject.build()
    if not isinstance(loss, LossAdapter):
        msg = f"the factory gave a {type(loss).__name__} without outputs, loss_sum and num_units"
        raise AssertionError(msg)
    return loss


def model_and_batches(subject: Subject) -> tuple[nn.Module, list[Any]]:
    """The case's, in eval mode, or the kit's own where it has none."""
    case = subject.case
    if case.model is not None and case.batches is not None:
        return subject.prepared(case.model()).eval(), list(case.batches())
    wanted = f"hand in Case(component={subject.name!r}, model=..., batches=...)"
    if case.model is not None or case.batches is not None:
        msg = f"the case has only one of model and batches: {wanted}"
        raise SkippedError(msg)
    if subject.spec.matches or not subject.tagged("classification", "regression"):
        msg = f"it needs a model of its kind: {wanted}"
        raise SkippedError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
        inputs = torch.randn(6, 3, dtype=torch.float64)
        classes, values = torch.randint(0, 3, (6,)), torch.randn(6, 3, dtype=torch.float64)
    targets = classes if subject.tagged("classification") else values
    return subject.prepared(model), list(zip(inputs.split((4, 2)), targets.split((4, 2)), strict=True))


def bound(subject: Subject, loss: Any, model: nn.Module, batches: list[Any]) -> Any:
    """The loss as a problem over these has it."""
    if not (subject.case.bind and isinstance(loss, BindsToModel)):
        return loss
    return Problem(model, batches, loss, preflight="off").loss


def outputs(loss: Any, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
    """The network's outputs, where second derivatives exist."""
    with loss.second_order(model) if isinstance(loss, PreparesSecondOrder) else nullcontext():
        found: tuple[Tensor, ...] = loss.outputs(model, batch)
    return found


def setting(subject: Subject) -> tuple[Any, nn.Module, list[Any]]:
    """The loss, bound where it binds, with model and batches."""
    loss = made_loss(subject)
    model, batches = model_and_batches(subject)
    return bound(subject, loss, model, batches), model, batches


def with_outputs(subject: Subject) -> tuple[Any, nn.Module, list[Any], tuple[Tensor, ...]]:
    """The loss, model, batches, and the first batch's outputs without a graph."""
    loss, model, batches = setting(subject)
    return loss, model, batches, tuple(part.detach() for part in outputs(loss, model, batches[0]))
