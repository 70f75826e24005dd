"""Curvature at hook points against torch.func on the run from there on, and its parts and projections."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import Problem
from curvkit_tlens import HookPointOperator, NextTokenLoss

#: Sums of some 1e5 terms in float64: 1e5 eps = 2e-11; Llama's norms and softmax are partly float32, some 30 eps of it.
TOLERANCE = {"gpt2": 1e-10, "llama": 4e-6}
PLACES = [
    ("gpt2", "blocks.0.hook_resid_post"),
    ("gpt2", "blocks.1.hook_resid_mid"),
    ("gpt2", "blocks.0.attn.hook_z"),
    ("gpt2", "blocks.0.attn.hook_pattern"),
    ("gpt2", "unembed.hook_in"),
    ("llama", "blocks.0.hook_resid_post"),
    ("llama", "blocks.1.attn.hook_k"),
    ("llama", "blocks.0.mlp.hook_post"),
    ("llama", "blocks.1.ln1.hook_scale"),
    ("llama", "blocks.0.attn.hook_rot_k"),
]


@pytest.fixture
def few(tokens: Tensor) -> Tensor:
    return tokens[:2, :3]


def run_from(model: nn.Module, tokens: Tensor, hook: str) -> tuple[Any, Tensor]:
    """Logits of the predicting positions as a function of the activation, and the activation, as hooks see them."""
    seen = []
    model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda a, hook: seen.append(a.detach().clone()))])

    def run(a: Tensor) -> Tensor:
        return model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda _, hook: a)])[:, :-1]

    return run, seen[0]


def dense(model: nn.Module, tokens: Tensor, hook: str, kind: str) -> Tensor:
    run, a = run_from(model, tokens, hook)
    targets = tokens[:, 1:].flatten()
    n = a.numel()

    def loss(z: Tensor) -> Tensor:
        return functional.cross_entropy(z.flatten(0, 1), targets)

    if kind == "hessian":
        return torch.func.hessian(lambda x: loss(run(x)))(a).reshape(n, n).detach()
    z = run(a).detach()
    J = torch.func.jacrev(run)(a).reshape(z.numel(), n).detach()
    H = torch.func.hessian(loss)(z).reshape(z.numel(), z.numel())
    return J.mT @ H @ J


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale:UserWarning")
@pytest.mark.parametrize(("kind", "hook"), PLACES)
@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_matrices_are_those_of_the_run_from_there_on(kind: str, hook: str, matrix: str, boot: Any, few: Tensor) -> None:
    """Residual stream, heads, patterns, a grouped key, a norm's scale; whole and in two batches."""
    model = boot(kind)
    expected = dense(model, few, hook, matrix)
    for batches in ([few], [few[:1], few[1:]]):
        operator = HookPointOperator(Problem(model, batches, NextTokenLoss()), hook, kind=matrix)
        found = operator.to_dense()
        assert (found - expected).norm() <= TOLERANCE[kind] * expected.norm()
    broken = expected.clone()
    broken[0, -1] += 1e-3 * expected.norm()
    assert (found - broken).norm() > TOLERANCE[kind] * expected.norm()
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())


def shown_shape(model: nn.Module, tokens: Tensor, hook: str) -> tuple[int, ...]:
    return tuple(run_from(model, tokens, hook)[1].shape)


@pytest.mark.parametrize(
    ("kind", "hook", "options", "index"),
    [
        ("gpt2", "blocks.0.hook_resid_post", {"position": 1}, (slice(None), 1)),
        ("gpt2", "blocks.0.hook_resid_post", {"position": -1}, (slice(None), 2)),
        ("gpt2", "blocks.0.attn.hook_z", {"head": 1}, (slice(None), slice(None), 1)),
        ("gpt2", "blocks.0.attn.hook_z", {"head": 1, "position": 2}, (slice(None), 2, 1)),
        ("llama", "blocks.0.attn.hook_q", {"head": 3, "position": 0}, (slice(None), 0, 3)),
        ("llama", "blocks.0.attn.hook_v", {"head": 1}, (slice(None), slice(None), 1)),
        ("llama", "blocks.0.attn.hook_pattern", {"head": 2, "position": 1}, (slice(None), 2, 1)),
        ("llama", "blocks.0.attn.hook_rot_q", {"head": 2, "position": 1}, (slice(None), 1, 2)),
    ],
)
def test_a_position_and_a_head_are_the_submatrix_there(
    kind: str, hook: str, options: dict[str, int], index: Any, boot: Any, few: Tensor
) -> None:
    """As hooks see the activation: heads split and in the order in which TransformerLens shows them."""
    model = boot(kind)
    problem = Problem(model, [few[:1], few[1:]], NextTokenLoss())
    whole = HookPointOperator(problem, hook).to_dense()
    shape = shown_shape(model, few, hook)
    places = torch.arange(len(whole)).view(shape)[index].flatten()
    operator = HookPointOperator(problem, hook, **options)
    expected = whole[places][:, places]
    assert operator.n == len(places)
    assert (operator.to_dense() - expected).norm() <= TOLERANCE[kind] * expected.norm()


@pytest.mark.parametrize(
    ("hook", "options", "width"),
    [
        ("blocks.0.hook_resid_post", {}, 8),
        ("blocks.0.hook_resid_post", {"position": 1}, 8),
        ("blocks.0.attn.hook_z", {}, 8),
        ("blocks.0.attn.hook_z", {"head": 1}, 4),
        ("blocks.0.attn.hook_z", {"head": 0, "position": 1}, 4),
    ],
)
@pytest.mark.parametrize("matrix", ["hessian", "ggn", "empirical-fisher"])
def test_directions_give_the_curvature_along_steering_vectors(
    hook: str, options: dict[str, int], width: int, matrix: str, boot: Any, few: Tensor
) -> None:
    """E^T A E with E the directions laid out at every token of the part; for the Hessian the steered loss's own."""
    model = boot("gpt2")
    D = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, [few[:1], few[1:]], NextTokenLoss())
    part = HookPointOperator(problem, hook, kind=matrix, **options).to_dense()
    E = D.repeat(1, len(part) // width)
    expected = E @ part @ E.mT
    found = HookPointOperator(problem, hook, kind=matrix, directions=D, **options).to_dense()
    assert found.shape == (3, 3)
    assert (found - expected).norm() <= TOLERANCE["gpt2"] * expected.norm()
    if matrix == "hessian":
        run, a = run_from(model, few, hook)
        targets = few[:, 1:].flatten()
        at = (slice(None), options.get("position", slice(None)), *([options["head"]] if "head" in options else []))

        def steered(c: Tensor) -> Tensor:
            mask = torch.zeros_like(a)
            mask[at] = 1.0
            step = (c @ D).view(a.shape[2:]) if width == a[0, 0].numel() else c @ D
            return functional.cross_entropy(run(a + mask * step).flatten(0, 1), targets)

        steep = torch.func.hessian(steered)(torch.zeros(3, dtype=torch.float64)).detach()
        assert (found - steep).norm() <= TOLERANCE["gpt2"] * steep.norm()


def test_the_sampled_fisher_is_fixed_by_its_seed_and_near_the_ggn(boot: Any, few: Tensor) -> None:
    problem = Problem(boot("gpt2"), [few], NextTokenLoss())
    D = torch.eye(8, dtype=torch.float64)[:2]
    options = {"kind": "fisher", "num_samples": 200, "seed": 3, "directions": D, "position": 1}
    found = HookPointOperator(problem, "blocks.0.hook_resid_post", **options).to_dense()
    assert torch.equal(found, HookPointOperator(problem, "blocks.0.hook_resid_post", **options).to_dense())
    ggn = HookPointOperator(problem, "blocks.0.hook_resid_post", kind="ggn", directions=D, position=1).to_dense()
    # 200 draws for each of 4 units: a relative error of the order of 1 / sqrt(800) = 0.035, times a few for the tails
    assert (found - ggn).norm() <= 0.2 * ggn.norm()
    assert (found - 2.0 * ggn).norm() > 0.2 * ggn.norm()


def test_hook_points_that_are_none_or_do_not_run_are_refused_with_the_mend(boot: Any, few: Tensor) -> None:
    problem = Problem(boot("gpt2"), [few], NextTokenLoss())
    with pytest.raises(
        ValueError, match="hook='blocks.0.hook_resid_psot' is no hook point .* Near names: blocks.0.hook_resi"
    ):
        HookPointOperator(problem, "blocks.0.hook_resid_psot")
    with pytest.raises(ValueError, match="module 'blocks.0.attn.hook_result' did not run in the model's forward"):
        HookPointOperator(problem, "blocks.0.attn.hook_result")
    with pytest.raises(TypeError, match="'embed.hook_in' is of dtype torch.int64"):
        HookPointOperator(problem, "embed.hook_in")
    with pytest.raises(ValueError, match="position=3 at 'blocks.0.hook_resid_post' is out of range: expected -3 to 2"):
        HookPointOperator(problem, "blocks.0.hook_resid_post", position=3)
    with pytest.raises(ValueError, match=r"head=0 at 'hook_embed': .* which has no axis of heads"):
        HookPointOperator(problem, "hook_embed", head=0)
    with pytest.raises(TypeError, match="position=True is a bool"):
        HookPointOperator(problem, "hook_embed", position=True)
    with pytest.raises(ValueError, match=r"directions have shape \(8,\): expected \(m, 8\), a row a direction"):
        HookPointOperator(problem, "hook_embed", directions=torch.ones(8))
    with pytest.raises(ValueError, match=r"directions have shape \(2, 8\): expected \(m, 4\)"):
        HookPointOperator(problem, "blocks.0.attn.hook_z", head=0, directions=torch.ones(2, 8))
    with pytest.raises(ValueError, match="expected finite floating-point numbers"):
        HookPointOperator(problem, "hook_embed", directions=torch.full((1, 8), torch.nan))
    with pytest.raises(ValueError, match="kind='newton' is unknown"):
        HookPointOperator(problem, "hook_embed", kind="newton")
    plain = Problem(nn.Linear(2, 2), [(torch.ones(1, 2), torch.ones(1, 2))], nn.MSELoss())
    with pytest.raises(TypeError, match="Linear has no hook_dict: expected a TransformerLens model"):
        HookPointOperator(plain, "hook_embed")
    assert not any(point.fwd_hooks for point in problem.model.hook_dict.values())


def test_an_activation_on_which_nothing_depends_has_zeros_and_a_note(boot: Any, few: Tensor) -> None:
    """Llama's rotary embedding is handed a tensor of which it reads the dtype alone."""
    problem = Problem(boot("llama"), [few], NextTokenLoss())
    operator = HookPointOperator(problem, "rotary_emb.hook_in")
    assert not operator.to_dense().any()
    assert "no output depends on the activation at 'rotary_emb.hook_in'" in " ".join(problem.history.findings)


def test_user_hooks_stay_and_act_before_the_activation(boot: Any, few: Tensor) -> None:
    """A hook of the user's at the point itself is part of the model; it is there afterwards, and so after an error."""
    model = boot("gpt2")
    hook = "blocks.0.hook_resid_post"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_hook(hook, lambda a, hook: 1.5 * a)
    point = model.hook_dict[hook]
    before = list(point.fwd_hooks), dict(point._forward_hooks)
    found = HookPointOperator(Problem(model, [few], NextTokenLoss()), hook).to_dense()
    assert (list(point.fwd_hooks), dict(point._forward_hooks)) == before

    def fails(model: nn.Module, batch: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    problem = Problem(model, [few], NextTokenLoss())
    operator = HookPointOperator(problem, hook)
    problem.model.ln_final.register_forward_pre_hook(lambda module, arguments: fails(module, few))
    with pytest.raises(RuntimeError, match="on purpose"):
        operator @ torch.ones(operator.n, dtype=torch.float64)
    assert (list(point.fwd_hooks), dict(point._forward_hooks)) == before
    model.ln_final._forward_pre_hooks.clear()
    model.reset_hooks()
    plain = HookPointOperator(Problem(model, [few], NextTokenLoss()), hook).to_dense()
    assert (found - plain).norm() > 1e-3 * plain.norm()
