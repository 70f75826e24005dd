"""Strategies and cache policies agree; what is kept is dropped when anything it has read changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from cases import CASES, F64, Case, relative
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from curvkit_core import CallableLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.linearize import gradient_at
from curvkit_core.linearize.kept_graphs import KeptGraphs
from curvkit_core.linearize.reverse import ForwardGraph

OPERATORS = {"hessian": HessianOperator, "ggn": GGNOperator, "empirical_fisher": EmpiricalFisherOperator}
TOLERANCE = 1e4 * torch.finfo(F64).eps
EXACT = [
    {"strategy": "reverse", "cache": "rebuild"},
    {"strategy": "reverse", "cache": "keep"},
    {"strategy": "lean"},
    {"strategy": "auto", "cache": "rebuild"},
    {"strategy": "auto", "cache": "keep"},
    {"strategy": "auto", "cache": "offload"},
    {"strategy": "auto", "memory_budget": 0},
    {"strategy": "auto", "memory_budget": "20kB"},
]


def graphs_of(problem: Problem) -> KeptGraphs:
    found = problem.history.kept_graphs
    assert isinstance(found, KeptGraphs)
    return found


@pytest.mark.parametrize("kind", list(OPERATORS))
@pytest.mark.parametrize("name", list(CASES))
def test_strategies_and_caches_give_the_same_products(name: str, kind: str) -> None:
    """L12: to rounding, at the first product and at the third, with ragged batches and microbatches."""
    rows = len(CASES[name]().inputs)
    case = CASES[name]()
    reference = OPERATORS[kind](case.problem(preflight="off"), strategy="reverse", cache="rebuild")
    V = reference.space.random("gaussian", 0, 0, 2)
    expected = reference.apply(V)
    for options in EXACT:
        problem = case.problem((rows - 2, 2), microbatch_size=3, preflight="off")
        operator = OPERATORS[kind](problem, **options)
        for _ in range(3):
            assert relative(operator.apply(V), expected) <= TOLERANCE, options
        assert relative(1.001 * operator.apply(V), expected) > TOLERANCE


@pytest.mark.parametrize("name", list(CASES))
def test_finite_differences_are_near_and_homogeneous(name: str) -> None:
    """X18, X20: error about eps^(2/3) of a smooth network's; F(cv) = c F(v) for c from 1e-6 to 1e6, to rounding."""
    case = CASES[name]()
    for kind in (HessianOperator, GGNOperator):
        exact = kind(case.problem(preflight="off"), strategy="reverse")
        near = kind(case.problem(preflight="off"), strategy="finite-difference")
        v = exact.space.random("gaussian", 0, 0, 1)[0]
        product = near @ v
        told = float(near.strategy.split("relative error about ")[1].split(")")[0])
        assert relative(product, exact @ v) <= 10 * told <= 1e-4
        assert 1e-13 < relative(product, exact @ v) <= 1e-5
        for c in (1e-6, 1e6):
            assert relative((near @ (c * v)) / c, product) <= 1e-6
        assert not (near @ torch.zeros_like(v)).any()


def test_finite_differences_of_a_low_precision_model_use_a_float32_copy() -> None:
    """X19: in bfloat16 itself a step of eps^(1/3) would be most of the rounding; here the error stays near 2^-8."""
    case = CASES["tied-mlp"]()
    model = case.model.bfloat16()
    before = [p.clone() for p in model.parameters()]
    batches = [(case.inputs.bfloat16(), case.targets)]
    exact = HessianOperator(Problem(model, batches, case.loss))
    near = HessianOperator(Problem(model, batches, case.loss), strategy="finite-difference")
    v = exact.space.random("gaussian", 0, 0, 1)[0]
    assert relative(near @ v, exact @ v) <= 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def assign(model: nn.Module) -> None:
    """New parameter objects throughout; the tie is made again."""
    model.load_state_dict({k: 1.2 * v for k, v in model.state_dict().items()}, assign=True)
    model.again.weight = model.middle.weight


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "data write": lambda m: m.last.weight.data.mul_(1.5),
    "in-place under no_grad": lambda m: torch.no_grad()(lambda: m.last.weight.mul_(1.5))(),
    "vector_to_parameters": lambda m: vector_to_parameters(1.1 * parameters_to_vector(m.parameters()), m.parameters()),
    "numpy view": lambda m: m.last.weight.detach().numpy().__imul__(1.5),
    "permutation": lambda m: m.last.weight.data.copy_(m.last.weight.data.flip(0).flip(1)),
    "buffer": lambda m: m.norm.running_mean.add_(0.5),
    "buffer through data": lambda m: m.norm.running_var.data.mul_(2.0),
    "load_state_dict": lambda m: m.load_state_dict({k: 1.2 * v for k, v in m.state_dict().items()}),
    "load_state_dict assign": assign,
    "new parameter object": lambda m: setattr(m.last, "weight", nn.Parameter(1.5 * m.last.weight.detach())),
    "SGD": lambda m: step(m, torch.optim.SGD(m.parameters(), lr=0.5)),
    "fused Adam": lambda m: step(m, torch.optim.Adam(m.parameters(), lr=0.1, fused=True)),
}


def fresh_product(case: Case, kind: type, v: Tensor) -> Tensor:
    return kind(case.problem((9, 4), preflight="off"), strategy="reverse", cache="rebuild") @ v


@pytest.mark.parametrize("change", list(CHANGES))
def test_the_product_after_a_change_is_right(change: str) -> None:
    """Kept graphs are dropped, whatever way a parameter or buffer changed; before the change they were used."""
    case = CASES["tied-mlp"]()
    problem = case.problem((9, 4))
    operators = [kind(problem, cache="keep") for kind in OPERATORS.values()]
    v = operators[0].space.random("gaussian", 0, 0, 1)[0]
    before = [op @ v for op in operators]
    assert all(op.strategy.startswith("reverse on kept graphs of 2 of 2") for op in operators)
    kept = [k.graph for k in graphs_of(problem).graphs.values()]
    assert [torch.equal(op @ v, b) for op, b in zip(operators, before, strict=True)] == [True] * 3
    assert [k.graph for k in graphs_of(problem).graphs.values()] == kept

    CHANGES[change](case.model)
    for op, kind, old in zip(operators, OPERATORS.values(), before, strict=True):
        expected = fresh_product(case, kind, v)
        assert relative(op @ v, expected) <= TOLERANCE
        assert relative(old, expected) > 1e-3
    assert graphs_of(problem).changes == 1


def test_changed_contents_of_a_batch_are_seen() -> None:
    """Inputs changed in place, and rows in another order within a batch with targets that are not."""
    case = CASES["tied-mlp"]()
    problem = case.problem((9, 4))
    op = GGNOperator(problem, cache="keep")
    v = op.space.random("gaussian", 0, 0, 1)[0]
    op @ v
    problem.batches[1][0].data[:] = problem.batches[1][0].flip(0)
    expected = GGNOperator(Problem(case.model, problem.batches, case.loss), cache="rebuild") @ v
    assert relative(op @ v, expected) <= TOLERANCE
    assert graphs_of(problem).changes == 1


def test_a_reshuffling_loader_is_right_and_soon_not_kept() -> None:
    """Each pass brings other batches: never a stale graph; after two changes none is built in vain."""
    case = CASES["tied-mlp"]()
    data = torch.utils.data.TensorDataset(case.inputs, case.targets)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    problem = Problem(case.model, loader, case.loss)
    op = GGNOperator(problem)
    v = op.space.random("gaussian", 0, 0, 1)[0]
    expected = GGNOperator(case.problem(), cache="rebuild") @ v
    for _ in range(5):
        assert relative(op @ v, expected) <= TOLERANCE
    assert op.strategy == "lean, rebuilt"


def test_blocks_share_the_kept_graphs_of_the_whole() -> None:
    """restrict() finds the graphs of its problem; a block's own graphs do not serve the whole."""
    case = CASES["shared-convnet"]()
    problem = case.problem((4, 3))
    whole = GGNOperator(problem, cache="keep")
    whole @ whole.space.random("gaussian", 0, 0, 1)[0]
    kept = [k.graph for k in graphs_of(problem).graphs.values()]
    block = HessianOperator(problem.restrict("conv.*"), cache="keep")
    V = block.space.random("gaussian", 0, 0, 2)
    assert (
        relative(block.apply(V), HessianOperator(case.problem().restrict("conv.*"), cache="rebuild").apply(V))
        <= TOLERANCE
    )
    assert [k.graph for k in graphs_of(problem).graphs.values()] == kept

    lone = case.problem((4, 3))
    HessianOperator(lone.restrict("conv.*"), cache="keep").apply(V)
    W = whole.space.random("gaussian", 0, 0, 2)
    assert relative(GGNOperator(lone, cache="keep").apply(W), whole.apply(W)) <= TOLERANCE


def test_blocks_that_take_turns_do_not_rebuild_each_others_graphs() -> None:
    """Two disjoint blocks of one problem: after one product each, both work on graphs over the union."""
    case = CASES["shared-convnet"]()
    problem = case.problem(preflight="off")
    blocks = [HessianOperator(problem.restrict(glob), cache="keep") for glob in ("conv.*", "head.*", "lift.*")]
    rows = [block.space.random("gaussian", 0, 0, 2) for block in blocks]
    first = [block.apply(V) for block, V in zip(blocks, rows, strict=True)]
    built = graphs_of(problem).graphs[0, 0].graph
    again = [block.apply(V) for block, V in zip(blocks, rows, strict=True)]
    assert graphs_of(problem).graphs[0, 0].graph is built
    for glob, V, products in zip(("conv.*", "head.*", "lift.*"), rows, zip(first, again, strict=True), strict=True):
        expected = HessianOperator(case.problem(preflight="off").restrict(glob), cache="rebuild").apply(V)
        assert all(relative(product, expected) <= TOLERANCE for product in products)


def test_the_budget_decides_how_many_are_kept() -> None:
    """None, some, all; and what is kept stays below it."""
    case = CASES["tied-mlp"]()

    def held(budget: int | str) -> tuple[str, int]:
        problem = case.problem((3, 3, 3, 3, 1))
        op = GGNOperator(problem, memory_budget=budget)
        v = op.space.random("gaussian", 0, 0, 1)[0]
        for _ in range(2):
            op @ v
        return op.strategy, graphs_of(problem).nbytes

    assert held(0) == ("lean, rebuilt", 0)
    words, whole = held("1GiB")
    assert words.startswith("reverse on kept graphs of 5 of 5 microbatches (")
    words, some = held(whole // 2)
    assert words.endswith("the others lean")
    assert 0 < some <= whole // 2


def test_a_broken_tie_is_named() -> None:
    """load_state_dict(assign=True) unties: the problem that was built is of another size than the model now."""
    case = CASES["tied-mlp"]()
    op = GGNOperator(case.problem())
    case.model.load_state_dict(case.model.state_dict(), assign=True)
    case.model.again.weight = nn.Parameter(case.model.again.weight.detach().clone())
    with pytest.raises(ValueError, match="parameter 'middle.weight' of TiedMLP has gone, changed its shape or is tied"):
        op @ torch.ones(op.n, dtype=op.dtype)


def test_options_that_contradict_are_refused() -> None:
    problem = CASES["tied-mlp"]().problem()
    with pytest.raises(ValueError, match="strategy='lean' has no graph to keep: expected cache='rebuild' or 'auto'"):
        GGNOperator(problem, strategy="lean", cache="keep")
    with pytest.raises(ValueError, match="memory_budget='lots': expected a number of bytes, or a text such as '8GiB'"):
        GGNOperator(problem, memory_budget="lots")
    with pytest.raises(ValueError, match="'strategy' must be in"):
        GGNOperator(problem, strategy="forward")
    with pytest.raises(ValueError, match="'cache' must be in"):
        GGNOperator(problem, cache="always")


class NoForwardMode(torch.autograd.Function):
    """x^2 with a derivative in reverse mode only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return NoForwardMode.apply(self.layer(x))


def test_operations_without_forward_mode_fall_back_or_are_named() -> None:
    """auto goes on in reverse mode and says why; an explicit lean is refused with the mend."""
    case = CASES["tied-mlp"]()
    model = Squared()
    problem = Problem(model, case.batches((9, 4)), case.loss)
    auto = GGNOperator(problem, cache="rebuild")
    v = auto.space.random("gaussian", 0, 0, 1)[0]
    expected = GGNOperator(Problem(model, case.batches(), case.loss), strategy="reverse", cache="rebuild") @ v
    assert relative(auto @ v, expected) <= TOLERANCE
    assert relative(auto @ v, expected) <= TOLERANCE
    assert auto.strategy.startswith("reverse (")
    assert "NoForwardMode" in auto.strategy or "jvp" in auto.strategy
    with pytest.raises(TypeError, match=r"strategy='lean' needs forward-mode derivatives: .* Use strategy='reverse'"):
        GGNOperator(problem, strategy="lean") @ v


@pytest.mark.parametrize(
    "options", [{"strategy": "lean"}, {"cache": "keep"}, {"strategy": "reverse", "cache": "rebuild"}]
)
def test_checkpointed_models_are_right_under_every_strategy(options: dict[str, str]) -> None:
    """The recompute reads what is swapped in, also in a backward of a kept graph."""
    case = CASES["tied-mlp"]()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = case.model

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)

    for kind in OPERATORS.values():
        plain = kind(case.problem())
        op = kind(Problem(Checkpointed(), case.batches(), case.loss), **options)
        v = plain.space.random("gaussian", 0, 0, 1)[0]
        for _ in range(2):
            assert relative(op @ v, plain @ v) <= TOLERANCE


def test_a_kept_product_runs_no_forward() -> None:
    """The loss function is called once a batch, whatever the number of products."""
    calls = []
    case = CASES["tied-mlp"]()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        return model(batch[0]).square().mean()

    problem = Problem(case.model, case.batches((8, 5)), CallableLoss(loss), preflight="off")
    op = HessianOperator(problem, cache="keep")
    for _ in range(4):
        op @ torch.ones(op.n, dtype=op.dtype)
    assert len(calls) == 2


def test_swapping_twice_is_refused() -> None:
    """Inside an open graph displaced parameters would not be found, and no step made: it is refused."""
    problem = CASES["tied-mlp"]().problem()
    with problem.opened():
        piece = next(iter(problem.pieces()))
        graph = ForwardGraph(problem, piece.batch)
        with graph.opened(), pytest.raises(RuntimeError, match="values are swapped in already"):
            gradient_at(problem, piece, problem.space.zeros(1)[0])
        assert gradient_at(problem, piece, problem.space.zeros(1)[0]).isfinite().all()
