"""What the conformance checks try the operator on, and what a prior cannot keep."""

import torch
from torch import Tensor

from curvkit_core import Problem
from curvkit_core.testing import Case, dense_ggn

DECAY = 0.03


def matrix(problem: Problem) -> Tensor:
    """The dense GGN, with the decay on the weights' diagonal."""
    diagonal = torch.zeros(problem.parameters.n, dtype=torch.float64)
    for entry in problem.parameters.entries:
        if entry.name.endswith("weight"):
            diagonal[entry.place] = DECAY
    return dense_ggn(problem) + torch.diag(diagonal)


CASES = [
    Case(
        component="laplace/precision",
        options={"weight_decay": DECAY, "decayed": ["*weight"]},
        truth=matrix,
        expected_failed={
            "operator-loss-scale": "a prior does not scale with the loss",
            "operator-tied-parameters": "a tied parameter has one prior, its untied uses one each",
            "operator-unused-parameters": "the prior is there for parameters that the loss does not depend on",
        },
    ),
]
