"""What the conformance checks try `acme/jacobian-gram` on, and what it cannot keep."""

import torch
from torch import Tensor

from curvkit_core import CallableLoss, MSELoss, Problem
from curvkit_core.testing import Case, dense_ggn


def matrix(problem: Problem) -> Tensor:
    """The GGN of half the squared outputs, whose own curvature is the identity, over this problem's units."""
    assert not isinstance(problem.loss, CallableLoss)
    batches = [(x, torch.zeros_like(problem.loss.outputs(problem.model, (x, t))[0])) for x, t in problem.batches]
    half = Problem(problem.model, batches, MSELoss(), params=list(problem.parameters.names))
    outputs = batches[0][1].shape[-1]
    return dense_ggn(half) * (outputs / 2) * half.num_units / problem.num_units


CASES = [
    Case(
        component="acme/jacobian-gram",
        truth=matrix,
        expected_failed={
            "operator-ignored-targets": "it is of the network's outputs, those of ignored targets too",
            "operator-loss-scale": "it leaves the loss's curvature out",
        },
    ),
]
