"""The oracle itself: the dense Hessians that everything is held against agree with central differences."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, dense_truth, flat_risk, relative


@pytest.mark.parametrize("name", list(CASES))
def test_dense_hessian_agrees_with_central_differences(name: str) -> None:
    """(g(t + h e_i) - g(t - h e_i)) / 2h, h = 1e-5: error h^2 / 6 of a third derivative plus eps / h, about 1e-10."""
    case = CASES[name]()
    risk, theta = flat_risk(case)
    gradient = torch.func.grad(risk)
    step = 1e-5 * torch.eye(len(theta), dtype=theta.dtype)
    differences = torch.stack([(gradient(theta + e) - gradient(theta - e)) / 2e-5 for e in step])
    truth = dense_truth(case).hessian
    assert relative(truth, differences) <= 1e-8
    assert relative(truth * 1.001, differences) > 1e-8
