"""Curvature in activations and inputs against torch.func on the network cut at the same place."""

from __future__ import annotations

import collections
from collections.abc import Callable

import attrs
import pytest
import torch
from cases import CASES, F64, Case, relative, tied_mlp
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from curvkit_core import CallableLoss, CrossEntropyLoss, Problem
from curvkit_core.operators import ActivationOperator

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match
PLACES = [
    ("tied-mlp", "norm"),
    ("tied-mlp", "batch:0"),
    ("regression-mlp", "middle"),
    ("multilabel-mlp", "first"),
    ("shared-convnet", "lift"),
    ("shared-convnet", "batch:0"),
    ("tiny-transformer", "embed"),
    ("tiny-transformer", "mix"),
]


def from_there(case: Case, at: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The risk as a function of the value at `at`, and that value."""
    model = case.model.eval()
    if at.startswith("batch:"):
        outputs, value = model, case.inputs
    else:
        seen = []
        module = model.get_submodule(at)
        with module.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone())):
            model(case.inputs)
        (value,) = seen

        def outputs(a: Tensor) -> Tensor:
            with module.register_forward_hook(lambda m, i, o: a):
                return model(case.inputs)

    def run(a: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return outputs(a)

    return run, value


def dense(case: Case, at: str, kind: str) -> Tensor:
    run, value = from_there(case, at)
    m = value.numel()
    if kind == "hessian":
        gradient = torch.func.grad(lambda a: case.loss_sum(run(a), case.targets) / case.units)
        return torch.func.jacfwd(gradient)(value).reshape(m, m).detach()
    z = run(value).detach()
    J = torch.func.jacfwd(run)(value).reshape(z.numel(), m)
    H = torch.func.jacfwd(torch.func.grad(lambda y: case.loss_sum(y, case.targets)))(z).reshape(z.numel(), z.numel())
    return (J.mT @ H @ J / case.units).detach()


@pytest.mark.parametrize(("name", "at"), PLACES)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_match_the_dense_matrix(name: str, at: str, kind: str) -> None:
    """Hidden layers, inputs, images, embeddings, attention; for every cut of the data."""
    case = CASES[name]()
    rows = len(case.inputs)
    expected = dense(case, at, kind)
    for problem in (case.problem(), case.problem((rows - 3, 2, 1)), case.problem(microbatch_size=2)):
        operator = ActivationOperator(problem, at, kind=kind)
        assert operator.symmetric
        found = operator.to_dense()
        assert relative(found, expected) <= TOLERANCE
    broken = expected.clone()
    broken[0, 0] += 1e-3 * expected.norm()
    assert relative(found, broken) > TOLERANCE


@pytest.mark.parametrize(
    ("name", "at"), [("tied-mlp", "norm"), ("tiny-transformer", "mix"), ("multilabel-mlp", "first")]
)
def test_fishers_are_those_of_the_units_gradients_there(name: str, at: str) -> None:
    """The empirical one of the data's targets; the sampled one of targets that another cut of the data leaves alone."""
    case = CASES[name]()
    run, value = from_there(case, at)
    problem = case.problem()
    rows = (
        torch.func.jacrev(lambda a: problem.loss.unit_losses((run(a),), case.batches()[0]))(value).flatten(1).detach()
    )
    expected = rows.mT @ rows / case.units
    cut = case.problem((len(case.inputs) - 3, 2, 1))
    for p in (problem, cut):
        assert relative(ActivationOperator(p, at, kind="empirical-fisher").to_dense(), expected) <= TOLERANCE
    sampled = {}
    for p, key in ((problem, "whole"), (cut, "cut")):
        operator = ActivationOperator(p, at, kind="fisher", num_samples=2, seed=5)
        sampled[key] = operator.to_dense()
        assert torch.equal(operator.to_dense(), sampled[key])  # the same draws in every pass
    assert relative(sampled["cut"], sampled["whole"]) <= TOLERANCE
    other = ActivationOperator(problem, at, kind="fisher", num_samples=2, seed=6).to_dense()
    assert relative(other, sampled["whole"]) > TOLERANCE


@pytest.mark.parametrize("name", ["tied-mlp", "tiny-transformer"])
def test_the_sampled_fishers_mean_is_the_ggn(name: str) -> None:
    """Over 400 draws a unit: an entry's error is of the order of the matrix's scale over the root of the draws."""
    case = CASES[name]()
    at = "norm" if name == "tied-mlp" else "mix"
    expected = dense(case, at, "ggn")
    found = ActivationOperator(case.problem(), at, kind="fisher", num_samples=400, seed=0).to_dense()
    few = ActivationOperator(case.problem(), at, kind="fisher", num_samples=4, seed=0).to_dense()
    assert relative(found, expected) <= 4 / 400**0.5
    assert relative(few, expected) > relative(found, expected)
    assert relative(ActivationOperator(case.problem(), at, kind="empirical-fisher").to_dense(), expected) > 4 / 400**0.5


def test_shapes_are_told_a_microbatch_each() -> None:
    case = CASES["tiny-transformer"]()
    rows, length = case.inputs.shape
    operator = ActivationOperator(case.problem((rows - 1, 1)), "mix")
    assert operator.shapes == ((rows - 1, length, 4), (1, length, 4))


def test_hessian_and_ggn_are_two_matrices_unless_the_rest_is_linear() -> None:
    """At the last layer's own output they agree; before a tanh they do not."""
    case = tied_mlp()
    H, G = (ActivationOperator(case.problem(), "first", kind=k).to_dense() for k in ("hessian", "ggn"))
    assert relative(H, G) > 1e3 * TOLERANCE
    H, G = (ActivationOperator(case.problem(), "last", kind=k).to_dense() for k in ("hessian", "ggn"))
    assert relative(H, G) <= TOLERANCE


def test_only_what_follows_is_differentiated_and_the_model_is_left_alone() -> None:
    """Outputs before the place carry no graph, those after it do; hooks and gradients are as before."""
    case = tied_mlp()
    graphs = {}
    for name in ("first", "norm", "last"):
        case.model.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: graphs.__setitem__(name, o.requires_grad)
        )
    operator = ActivationOperator(case.problem(preflight="off"), "norm")
    operator @ torch.ones(operator.n, dtype=F64)
    assert graphs == {"first": False, "norm": False, "last": True}
    assert len(case.model.norm._forward_hooks) == 1
    assert all(p.grad is None for p in case.model.parameters())


class Blocks(nn.Module):
    """A tuple-returning block, an in-place activation after it, a checkpointed tail."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.block = Pair()
        self.inner = nn.Linear(3, 3)
        self.tail = nn.Linear(3, 3)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.block(x)
        h.tanh_()
        rest = lambda a: self.tail(torch.tanh(self.inner(a)))  # noqa: E731 - what is recomputed
        return checkpoint(rest, h, use_reentrant=False) if self.checkpointed else rest(h)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


@pytest.mark.parametrize("at", ["block", "inner"])
def test_tuples_in_place_operations_and_checkpointing_change_nothing(at: str) -> None:
    """A block's first tensor; work in place on it; a part that the backward runs again, with the place inside it."""
    torch.manual_seed(0)
    x, t = torch.randn(5, 4, dtype=F64), torch.randint(0, 3, (5,))
    matrices = {}
    for checkpointed in (False, True):
        torch.manual_seed(1)
        model = Blocks(checkpointed).to(F64)
        matrices[checkpointed] = ActivationOperator(Problem(model, [(x, t)], CrossEntropyLoss()), at).to_dense()
    W, b = model.inner.weight.detach(), model.inner.bias.detach()
    hidden = model.block.linear(x).detach()

    def risk(a: Tensor) -> Tensor:
        h = functional.linear(torch.tanh(a), W, b) if at == "block" else a
        return functional.cross_entropy(model.tail(torch.tanh(h)), t)

    value = hidden if at == "block" else model.inner(torch.tanh(hidden)).detach()
    expected = torch.func.jacfwd(torch.func.grad(risk))(value).reshape(15, 15).detach()
    assert relative(matrices[False], expected) <= TOLERANCE
    assert relative(matrices[True], expected) <= TOLERANCE


def test_batches_of_every_make_have_entries() -> None:
    """Tuple, list, named tuple, dict, UserDict, attrs; the same tensor as input and target is one place, not two."""

    @attrs.frozen
    class Batch:
        x: Tensor
        labels: Tensor

    case = CASES["regression-mlp"]()
    x, t = case.batches()[0]
    Named = collections.namedtuple("Named", "x labels")
    loss = type(case.loss)(inputs=("x",))
    by_place = [(x, t), [x, t]]
    by_name = [{"x": x, "labels": t}, collections.UserDict(x=x, labels=t), Batch(x, t)]
    expected = dense(case, "batch:0", "hessian")

    def matrix(problem: Problem, at: str) -> Tensor:
        return ActivationOperator(problem, at).to_dense()

    for batch in by_place:
        assert relative(matrix(Problem(case.model, [batch], case.loss), "batch:0"), expected) <= TOLERANCE
    for batch in by_name:
        assert relative(matrix(Problem(case.model, [batch], loss), "batch:x"), expected) <= TOLERANCE
    named = Problem(case.model, [Named(x, t)], case.loss)
    for at in ("batch:x", "batch:0"):
        assert relative(matrix(named, at), expected) <= TOLERANCE
    square = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).to(F64)
    twin = Problem(square, [(t, t)], case.loss)
    apart = Problem(square, [(t, t.clone())], case.loss)
    assert relative(matrix(twin, "batch:0"), matrix(apart, "batch:0")) <= TOLERANCE


def test_weights_and_ignored_targets_are_the_problems() -> None:
    """The divisor is the number of units; an ignored example's block is zero; batches that count alike are rescaled."""
    case = tied_mlp()
    operator = ActivationOperator(case.problem((12, 1)), "norm")
    found = operator.to_dense().view(13, 3, 13, 3)
    assert not found[1].any()
    assert not found[0, :, 2].any()
    alike = ActivationOperator(case.problem((12, 1), weighting="batch-mean"), "norm").to_dense().view(13, 3, 13, 3)
    assert relative(alike[12, :, 12], found[12, :, 12] * 11 / 2) <= TOLERANCE
    assert relative(alike[0, :, 0], found[0, :, 0] * 11 / 20) <= TOLERANCE


def test_a_loss_of_ones_own_has_a_hessian_in_the_inputs() -> None:
    case = CASES["regression-mlp"]()
    own = CallableLoss(lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]))
    problem = Problem(case.model, case.batches((6, 7)), own)
    assert relative(ActivationOperator(problem, "batch:0").to_dense(), dense(case, "batch:0", "hessian")) <= TOLERANCE
    with pytest.raises(TypeError, match="CallableLoss does not tell where the model ends"):
        ActivationOperator(problem, "batch:0", kind="ggn")


def test_places_that_are_none_are_refused_with_the_mend() -> None:
    case = tied_mlp()
    problem = case.problem()
    with pytest.raises(ValueError, match="at='nrom' is no module of TiedMLP. Near names: norm"):
        ActivationOperator(problem, "nrom")
    with pytest.raises(ValueError, match="module 'unused' did not run in the model's forward"):
        ActivationOperator(problem, "unused")
    with pytest.raises(ValueError, match="module 'conv' runs more than once in a forward"):
        ActivationOperator(CASES["shared-convnet"]().problem(), "conv")
    with pytest.raises(TypeError, match="'batch:0' is of dtype torch.int64: .* name the embedding's module"):
        ActivationOperator(CASES["tiny-transformer"]().problem(), "batch:0")
    with pytest.raises(ValueError, match="at='batch:5': the batch, a tuple, has the positions 0 to 1"):
        ActivationOperator(problem, "batch:5")
    with pytest.raises(TypeError, match="at=3: expected a module's name"):
        ActivationOperator(problem, 3)
    with pytest.raises(ValueError, match="kind='newton' is unknown: expected one of 'hessian', 'ggn', 'fisher'"):
        ActivationOperator(problem, "norm", kind="newton")
    with pytest.raises(ValueError, match="num_samples=0: expected a positive integer"):
        ActivationOperator(problem, "norm", kind="fisher", num_samples=0)
    with pytest.raises(ValueError, match="gave no activations"):
        ActivationOperator(Problem(case.model, [], case.loss), "norm")
