"""Defects seen in other tools, in what a product leaves behind: X9, X10, X16."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import relative, tied_mlp
from torch import Tensor, nn

from curvkit_core import EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError

KINDS = [HessianOperator, GGNOperator, EmpiricalFisherOperator]


def bits(model: nn.Module) -> list[Any]:
    """Parameters, buffers, gradients, modes and the random state, as bytes."""
    kept = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    flags = [module.training for module in model.modules()]
    return [t.detach().numpy().tobytes() for t in kept] + flags + [torch.get_rng_state().numpy().tobytes()]


def naive_ggn(model: nn.Module, inputs: Tensor) -> None:
    """The defect: a forward of the user's own model, in its own mode."""
    model(inputs)


def naive_evaluation(model: nn.Module, inputs: Tensor) -> None:
    """The defect: the mode is set and stays, and the gradients stay with it."""
    model.eval()
    model(inputs).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eval", "train", "as-is"])
def test_x09_a_product_leaves_the_model_as_it_was(kind: Any, mode: str) -> None:
    """A product moves BatchNorm's statistics, or leaves eval() on and .grad filled: bitwise as before."""
    case = tied_mlp()
    model = case.model.train()
    op = kind(case.problem(mode=mode, preflight="off"))
    before = bits(model)
    op @ op.space.random("gaussian", 0, 0, 1)[0]
    assert bits(model) == before


@pytest.mark.parametrize("naive", [naive_ggn, naive_evaluation])
def test_x09_sees_a_model_that_was_written(naive: Callable[[nn.Module, Tensor], None]) -> None:
    case = tied_mlp()
    before = bits(case.model.train())
    naive(case.model, case.inputs)
    assert bits(case.model) != before


@pytest.mark.parametrize("kind", KINDS)
def test_x09_holds_after_an_exception(kind: Any) -> None:
    """A batch whose targets do not fit, after one that does."""
    case = tied_mlp()
    batches = case.batches((6, 7))
    batches[1] = (batches[1][0], batches[1][1][:3])
    op = kind(Problem(case.model.train(), batches, case.loss, mode="train", preflight="off"))
    before = bits(case.model)
    with pytest.raises(ValueError, match=r"targets have shape \(3,\)"):
        op @ op.space.random("gaussian", 0, 0, 1)[0]
    assert bits(case.model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_x10_dropout_is_off_or_found(kind: Any) -> None:
    """Two products of one vector differ by 69 % with dropout on: eval is the default, and train is refused."""
    case = tied_mlp()
    model = nn.Sequential(case.model, nn.Dropout(0.5)).train()

    def products(**options: Any) -> tuple[Tensor, Tensor]:
        op = kind(Problem(model, case.batches(), case.loss, **options), cache="rebuild")
        v = op.space.random("gaussian", 0, 0, 1)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = op @ v
            torch.manual_seed(1)
            return first, op @ v

    first, second = products()
    assert torch.equal(first, second)
    with pytest.raises(PreflightError, match="forward"):
        products(mode="train")
    first, second = products(mode="train", preflight="off")
    assert relative(second, first) > 0.1


GLOBAL_STATE = """
import json, torch
def state():
    cuda = torch.backends.cuda
    return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
            cuda.matmul.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.get_rng_state().sum().item(), torch.is_anomaly_enabled()]
"""
PRODUCT = """
import curvkit_core.checks, curvkit_core.losses, curvkit_core.results
from curvkit_core import CrossEntropyLoss, GGNOperator, HessianOperator, Problem, eigsh, trace
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.TransformerEncoderLayer(4, 1, 4, batch_first=True)
    def forward(self, x):
        return self.body(x).mean(1)
with torch.random.fork_rng():
    net, x = Net(), torch.randn(2, 3, 4)
for kind in (HessianOperator, GGNOperator):
    op = kind(Problem(net, [(x, torch.tensor([0, 1]))], CrossEntropyLoss()))
    eigsh(op, k=1, seed=0, max_matvecs=3)
    trace(op, num_matvecs=4)
"""


def changes_global_state(program: str) -> bool:
    """Whether a child process's torch is set otherwise after `program` than before."""
    text = f"{GLOBAL_STATE}\nbefore = state()\n{program}\nprint(json.dumps([before, state()]))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    return before != after


def test_x16_torch_stays_as_it_is_set() -> None:
    """Attention flags are set on import: neither an import nor a product changes torch's global state."""
    assert not changes_global_state(PRODUCT)
    assert changes_global_state("torch.backends.cuda.enable_flash_sdp(False)")
