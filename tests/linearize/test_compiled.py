"""compile=True: the same products; where compiling fails, the eager ones and the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, relative
from packaging.version import Version
from torch import Tensor, nn

from curvkit_core import GGNOperator, HessianOperator, Problem

# dynamo of torch 2.6 refuses a function that opens a context; of those that followed 2.13 was tried
REFUSED = Version(torch.__version__).release < (2, 7)


@pytest.fixture(autouse=True)
def own_compiler_cache() -> None:
    """The compiler compiles one function eight times at most in a process, which all tests together pass."""
    torch.compiler.reset()


def test_a_compiled_hessian_product_is_the_eager_one() -> None:
    """To rounding, at the first product, which is compared, and at the second, which is not."""
    case = CASES["tied-mlp"]()
    reference = HessianOperator(case.problem(), strategy="reverse", cache="rebuild")
    v = reference.space.random("gaussian", 0, 0, 1)[0]
    op = HessianOperator(case.problem(), compile=True)
    for _ in range(2):
        assert relative(op @ v, reference @ v) <= 1e-11
    refused = REFUSED and op.strategy.startswith("lean (not compiled: Unsupported")
    assert refused or op.strategy == "compiled, rebuilt"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_compiled_products_are_the_eager_ones(kind: Any, name: str) -> None:
    """To rounding, with a ragged last batch, which is compiled once more.

    Forward mode over the head's own autograd Functions is not compiled (torch 2.13): eager then, with the reason.
    """
    case = CASES[name]()
    reference = kind(case.problem(), strategy="reverse", cache="rebuild")
    V = reference.space.random("gaussian", 0, 0, 2)
    sizes = (len(case.inputs) - 2, 2)
    op = kind(case.problem(sizes), compile=True)
    for _ in range(2):
        assert relative(op.apply(V), reference.apply(V)) <= 1e-11
    eager = REFUSED or (kind, name) == (HessianOperator, "without-logits")
    assert op.strategy.startswith("lean (not compiled: Unsupported" if eager else "compiled, rebuilt")


def test_what_cannot_be_compiled_goes_on_eagerly_and_says_why() -> None:
    """A forward that raises under the compiler alone."""

    class Shy(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                raise RuntimeError("not under a compiler")
            return self.body(x)

    case = CASES["tied-mlp"]()
    problem = Problem(Shy(case.model), case.batches(), case.loss)
    op = HessianOperator(problem, compile=True)
    reference = HessianOperator(case.problem(), cache="rebuild")
    v = reference.space.random("gaussian", 0, 0, 1)[0]
    for _ in range(2):
        assert relative(op @ v, reference @ v) <= 1e-11
    assert "not compiled: " in op.strategy


@pytest.mark.skipif(REFUSED, reason="torch 2.6 compiles no product, so none can differ")
def test_a_compiled_result_that_differs_is_not_used() -> None:
    """A forward that is another function under the compiler: found by the first comparison."""

    class Liar(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * (1.001 if torch.compiler.is_compiling() else 1.0)

    case = CASES["tied-mlp"]()
    op = GGNOperator(Problem(Liar(case.model), case.batches(), case.loss), compile=True)
    reference = GGNOperator(case.problem(), cache="rebuild")
    v = reference.space.random("gaussian", 0, 0, 1)[0]
    for _ in range(2):
        assert relative(op @ v, reference @ v) <= 1e-11
    assert "differs from the eager one by" in op.strategy


def test_compiling_and_keeping_contradict() -> None:
    problem = CASES["tied-mlp"]().problem()
    with pytest.raises(ValueError, match="compile=True is a strategy of its own and keeps no graph"):
        HessianOperator(problem, compile=True, cache="keep")
