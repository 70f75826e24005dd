"""What is shown wrong is refused by code, with the batch and the mend; each with its negative control."""

from __future__ import annotations

import pytest
import torch
from cases import tied_mlp
from torch import nn

from curvkit_core import CallableLoss, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError, PreflightWarning


def dropout_problem(mode: str, preflight: str = "error") -> Problem:
    case = tied_mlp()
    model = nn.Sequential(case.model, nn.Dropout(0.5))
    return Problem(model, case.batches((8, 5)), case.loss, mode=mode, preflight=preflight)


def product(problem: Problem) -> torch.Tensor:
    operator = GGNOperator(problem)
    return operator @ operator.space.random("gaussian", 0, 0, 1)[0]


def test_dropout_left_on_is_found() -> None:
    """X10: two forwards differ; in eval mode all is well."""
    with pytest.raises(PreflightError, match=r"\[forward-not-repeatable\] two forward passes of batch 0 differ by"):
        product(dropout_problem("train"))
    assert product(dropout_problem("eval")).isfinite().all()


def test_warn_goes_on_and_remembers_and_off_is_silent() -> None:
    problem = dropout_problem("train", "warn")
    with pytest.warns(PreflightWarning, match="forward-not-repeatable"):
        product(problem)
    assert len(problem.history.findings) == 1
    product(problem)
    assert len(problem.history.findings) == 1
    product(dropout_problem("train", "off"))


def test_a_non_finite_loss_names_its_batch() -> None:
    case = tied_mlp()
    batches = case.batches((5, 4, 4))
    batches[1][0][2, 0] = float("inf")
    case.model.first.weight.data[0, 0] = 0.0
    with pytest.raises(PreflightError, match=r"\[loss-not-finite\] the loss of batch 1 is nan"):
        product(Problem(case.model, batches, case.loss))
    assert product(Problem(case.model, [batches[0], batches[2]], case.loss)).isfinite().all()


def test_checks_run_in_the_first_product_only() -> None:
    """Forwards are counted: two batches and one repeat, then two a product; blocks share what was checked."""
    calls = []
    case = tied_mlp()

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return model(batch[0]).square().mean()

    problem = Problem(case.model, case.batches((8, 5)), CallableLoss(loss))
    operator = HessianOperator(problem)
    v = torch.ones(operator.n, dtype=operator.dtype)
    operator @ v
    assert len(calls) == 3
    operator @ v
    assert len(calls) == 5
    block = HessianOperator(problem.restrict("first"))
    block @ torch.ones(block.n, dtype=block.dtype)
    assert len(calls) == 7
