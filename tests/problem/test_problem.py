"""The problem: what it takes, what it refuses by name, and how it averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import frozen
from cases import F64, regression_mlp, relative, tied_mlp
from torch import Tensor, nn

from curvkit_core import CallableLoss, CrossEntropyLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.backends import SingleBackend
from curvkit_core.kernels import Kernels


def test_torch_criteria_are_taken_as_they_are() -> None:
    case = tied_mlp()
    own = HessianOperator(case.problem()).to_dense()
    theirs = HessianOperator(Problem(case.model, case.batches(), nn.CrossEntropyLoss())).to_dense()
    assert torch.equal(own, theirs)


def test_callable_loss_gives_the_hessian_with_ragged_batches() -> None:
    """A mean loss over 10 and 3 examples, weighted by them."""
    case = regression_mlp()
    loss = CallableLoss(lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1]))
    own = HessianOperator(Problem(case.model, case.batches((10, 3)), loss)).to_dense()
    assert relative(own, HessianOperator(case.problem()).to_dense()) <= 1e-12


def test_operators_that_a_loss_cannot_have_are_refused_by_name() -> None:
    problem = Problem(nn.Linear(2, 1), [torch.ones(1, 2)], CallableLoss(lambda m, b: m(b).mean()))
    with pytest.raises(TypeError, match="CallableLoss does not tell where the model ends"):
        GGNOperator(problem)
    with pytest.raises(TypeError, match="CallableLoss cannot tell its units apart"):
        EmpiricalFisherOperator(problem)
    with pytest.raises(TypeError, match="problem is a Linear: expected a curvkit_core.Problem"):
        HessianOperator(nn.Linear(1, 1))


def test_ggn_without_closed_form_is_autograds() -> None:
    """X13: an adapter with no ggn of its own; one with two outputs and none is told to add it."""

    class Quartic:
        def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
            return (model(batch[0]),)

        def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
            return (y[0] - batch[1]).pow(4).sum()

        def num_units(self, batch: Any) -> int:
            return len(batch[0])

    case = regression_mlp()
    problem = Problem(case.model, case.batches((9, 4)), Quartic())
    case.model.eval()
    params = dict(case.model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in params.values()])

    def outputs(theta: Tensor) -> Tensor:
        pieces = theta.split([p.numel() for p in params.values()])
        values = {k: v.view(p.shape) for (k, p), v in zip(params.items(), pieces, strict=True)}
        return torch.func.functional_call(case.model, values, (case.inputs,)).reshape(-1)

    J = torch.func.jacfwd(outputs)(flat)
    h = 12 * (outputs(flat) - case.targets.reshape(-1)).square()
    assert relative(GGNOperator(problem).to_dense(), J.mT @ (h[:, None] * J) / 13) <= 1e-12

    class Pair(Quartic):
        def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
            y = model(batch[0])
            return (y, y)

    with pytest.raises(TypeError, match=r"Pair hands over 2 tensors and has no ggn\(y, batch, dy\)"):
        GGNOperator(Problem(case.model, case.batches(), Pair())) @ flat


def test_a_loss_linear_in_the_parameters_has_the_zero_hessian() -> None:
    """X12: no graph to differentiate is a zero, not an error."""
    model = nn.Linear(3, 1).double()
    loss = CallableLoss(lambda m, b: m(b).mean())
    H = HessianOperator(Problem(model, [torch.ones(2, 3, dtype=F64)], loss))
    assert not H.to_dense().any()
    constant = CallableLoss(lambda m, b: b.mean())
    assert not HessianOperator(Problem(model, [torch.ones(2, 3, dtype=F64)], constant)).to_dense().any()


def test_batch_mean_weighting_averages_batch_means() -> None:
    """(H_1 + H_2) / 2 of the two batches alone, whatever their sizes."""
    case = tied_mlp()
    halves = [HessianOperator(Problem(case.model, [b], case.loss)).to_dense() for b in case.batches((10, 3))]
    for options in ({}, {"microbatch_size": 4}):
        mean = HessianOperator(case.problem((10, 3), weighting="batch-mean", **options)).to_dense()
        assert relative(mean, (halves[0] + halves[1]) / 2) <= 1e-12


def test_num_units_counts_targets_that_count() -> None:
    case = tied_mlp()
    problem = case.problem((10, 3))
    assert problem.num_units == 11
    HessianOperator(problem) @ torch.zeros(problem.parameters.n, dtype=F64)
    assert problem.num_units == 11
    assert case.problem((10, 3), weighting="batch-mean").num_units == 2


def test_no_data_and_no_units_are_refused() -> None:
    model = nn.Linear(2, 3)
    v = torch.zeros(9)
    with pytest.raises(ValueError, match=r"the data \(list\) gave no batches"):
        HessianOperator(Problem(model, [], CrossEntropyLoss())) @ v
    ignored = (torch.ones(2, 2), torch.tensor([-100, -100]))
    with pytest.raises(ValueError, match=r"the data \(list\) gave no units: all targets are ignored"):
        HessianOperator(Problem(model, [ignored], CrossEntropyLoss())) @ v
    with pytest.raises(ValueError, match="batch 0 has no units"):
        HessianOperator(Problem(model, [ignored], CrossEntropyLoss(), weighting="batch-mean")) @ v


def test_unknown_options_are_named() -> None:
    model, batches, loss = nn.Linear(1, 1), [torch.ones(1, 1)], nn.MSELoss()
    with pytest.raises(ValueError, match="weighting='mean' is unknown: expected one of 'unit', 'batch-mean'"):
        Problem(model, batches, loss, weighting="mean")
    with pytest.raises(ValueError, match="mode='test' is unknown"):
        Problem(model, batches, loss, mode="test")
    with pytest.raises(ValueError, match="preflight='on' is unknown"):
        Problem(model, batches, loss, preflight="on")
    with pytest.raises(ValueError, match="microbatch_size=0: expected a positive integer"):
        Problem(model, batches, loss, microbatch_size=0)
    with pytest.raises(TypeError, match="model is a function: expected a torch.nn.Module"):
        Problem(lambda x: x, batches, loss)


def test_forward_context_surrounds_every_forward() -> None:
    """Autocast makes the outputs bfloat16; products stay float32 and near."""
    case = regression_mlp()
    model = case.model.float()
    batches = [(case.inputs.float(), case.targets.float())]
    plain = GGNOperator(Problem(model, batches, case.loss))
    cast = GGNOperator(
        Problem(model, batches, case.loss, forward_context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    )
    v = plain.space.random("gaussian", 0, 0, 1)[0]
    gap = relative(cast @ v, plain @ v)
    assert 1e-5 < gap < 0.05


def test_products_work_under_no_grad_and_inference_mode() -> None:
    case = tied_mlp()
    operator = HessianOperator(case.problem())
    v = operator.space.random("gaussian", 0, 0, 1)[0]
    expected = operator @ v
    with torch.no_grad():
        assert torch.equal(operator @ v, expected)
    with torch.inference_mode():
        assert torch.equal(operator @ v, expected)


def test_compiled_models_are_unwrapped() -> None:
    case = tied_mlp()
    compiled = torch.compile(case.model)
    assert Problem(compiled, case.batches(), case.loss).model is case.model


def test_description_is_plain_data() -> None:
    import json

    facts: dict[str, Any] = tied_mlp().problem().describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["weighting"] == "unit"
    assert facts["dtype"] == "float64"


def test_equipped_problems_compute_with_what_they_are_given() -> None:
    """Another backend deals out the batches and makes the space; other kernels are the loss's; the rest is shared."""
    case = tied_mlp()

    @frozen(kw_only=True)
    class FirstBatchOnly(SingleBackend):
        def shard(self, batches: Any) -> Any:
            return list(batches)[:1]

    problem = case.problem((10, 3), preflight="off")
    alone = problem.equipped(backend=FirstBatchOnly())
    assert relative(HessianOperator(alone).to_dense(), HessianOperator(case.problem((10, 3))).to_dense()) > 0.01
    assert alone.num_units < problem.num_units == 11
    kernels = Kernels(ce_hvp=lambda z, w, u: torch.zeros_like(u))
    assert not GGNOperator(problem.equipped(kernels=kernels)).to_dense().any()
    assert GGNOperator(problem).to_dense().any()
