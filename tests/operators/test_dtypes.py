"""Parameters of several dtypes: vectors as wide as the widest, each parameter's piece in its own."""

from __future__ import annotations

import torch
from cases import F64, relative, tied_mlp
from torch import Tensor, nn

from curvkit_core import GGNOperator, HessianOperator, Problem


class Mixed(nn.Module):
    """A first layer in one dtype, a second in float64."""

    def __init__(self, low: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low = nn.Linear(4, 3).to(low)
        self.high = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.high(torch.tanh(self.low(x.to(self.low.weight.dtype))).double())


def test_mixed_dtypes_give_float64_vectors_and_the_float64_product_to_the_narrow_layers_rounding() -> None:
    """X14: `dtype` is what a product returns; float32's rounding is 1e-7 times the depth, bfloat16's 2^-8."""
    case = tied_mlp()
    for kind in (HessianOperator, GGNOperator):
        exact = kind(Problem(Mixed(F64), case.batches(), case.loss))
        v = exact.space.random("gaussian", 0, 0, 1)[0]
        for low, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.2)):
            mixed = kind(Problem(Mixed(low), case.batches(), case.loss))
            product = mixed @ v
            assert mixed.dtype == product.dtype == F64
            assert 1e-9 < relative(product, exact @ v) <= bound
