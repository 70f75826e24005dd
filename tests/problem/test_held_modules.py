"""Wrappers that hold a model as a plain attribute: its values are swapped, its modes set, and what is lost is named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import F64
from torch import Tensor, nn

from curvkit_core import HessianOperator, MSELoss, Problem
from curvkit_core.problem.held_modules import held_modules


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.first(x))))


class Wrapper(nn.Module):
    """Registers one part of the model behind it, holds the whole, and lists the parameters of the whole."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.part = inner.first
        self.__dict__["inner"] = inner

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self.inner.named_parameters(*arguments, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_products_are_those_of_the_model_behind_in_any_mode() -> None:
    """`last` and the dropout are in no registered module: values reach the one, eval mode the other, both come back."""
    torch.manual_seed(0)
    inner = Inner().to(F64)
    data = [(torch.randn(5, 3, dtype=F64), torch.randn(5, 2, dtype=F64))]
    v = torch.ones(sum(p.numel() for p in inner.parameters()), dtype=F64)
    expected = HessianOperator(Problem(inner.eval(), data, MSELoss())) @ v
    assert expected[-10:].abs().min() > 0
    wrapper = Wrapper(inner)
    inner.train()
    assert torch.equal(HessianOperator(Problem(wrapper, data, MSELoss())) @ v, expected)
    assert all(m.training for m in inner.modules())
    assert set(held_modules(wrapper)) == {wrapper, *inner.modules()}
    assert len(list(held_modules(wrapper))) == 5


def test_a_parameter_that_no_module_holds_is_named() -> None:
    """Its derivatives would silently be zero."""

    class Listing(nn.Linear):
        def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
            yield from super().named_parameters(*arguments, **options)
            yield "elsewhere", elsewhere

    elsewhere = nn.Parameter(torch.ones(2, dtype=F64))
    problem = Problem(Listing(3, 2).to(F64), [(torch.ones(4, 3, dtype=F64), torch.ones(4, 2, dtype=F64))], MSELoss())
    with pytest.raises(ValueError, match="Listing lists 1 parameters that none of its modules holds, .* 'elsewhere'"):
        HessianOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)


def test_scripted_and_traced_parts_are_named() -> None:
    """Their parameters lie where Python does not reach."""
    data = [(torch.ones(4, 3, dtype=F64), torch.ones(4, 2, dtype=F64))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        scripted = torch.jit.script(nn.Linear(3, 2).to(F64))
        traced = torch.jit.trace(nn.Linear(3, 2).to(F64), data[0][0])
    for model, where in ((scripted, "RecursiveScriptModule"), (nn.Sequential(traced), "Sequential")):
        problem = Problem(model, data, MSELoss())
        text = f"a Linear in {where} is scripted or traced by torch.jit: .*Use the module that it was made from"
        with pytest.raises(TypeError, match=text):
            HessianOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)
