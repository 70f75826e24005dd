"""The same parts on a HookedTransformer: its matrices by torch's own differentiation, its names, heads and hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import EmpiricalFisherOperator, FisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_tlens import (
    HookPointOperator,
    NextTokenLoss,
    ablated,
    component_names,
    interventions,
    match_components,
    patched,
)
from curvkit_tlens.named_components import named_components

TOLERANCE = 1e-10  # sums of some 1e5 terms in float64: 1e5 eps = 2e-11
VARIANTS = {
    "plain": {},
    "grouped": {"n_heads": 4, "d_head": 2, "n_key_value_heads": 2},
    "rotary, gated, capped": {
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "gated_mlp": True,
        "act_fn": "silu",
        "normalization_type": "RMS",
        "output_logits_soft_cap": 3.0,
    },
    "attention only": {"attn_only": True, "normalization_type": None},
}


def product(model: nn.Module, tokens: Tensor, kind: str, v: Tensor) -> Tensor:
    """The matrix over all parameters times v through torch.func.functional_call: a slope's slope, or J's rows."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in named.values()]
    flat = torch.cat([p.flatten() for p in named.values()])

    def logits(theta: Tensor) -> Tensor:
        parts = [part.view(p.shape) for part, p in zip(theta.split(sizes), named.values(), strict=True)]
        out = torch.func.functional_call(
            model, dict(zip(named, parts, strict=True)), (tokens,), {"return_type": "logits"}
        )
        return out[:, :-1].flatten(0, 1)

    def loss(z: Tensor) -> Tensor:
        return functional.cross_entropy(z, tokens[:, 1:].flatten())

    theta = flat.requires_grad_()
    if kind == "hessian":
        (slope,) = torch.autograd.grad(loss(logits(theta)), theta, create_graph=True)
        return torch.autograd.grad(slope @ v, theta)[0]
    z = logits(theta)
    J = torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in z.flatten()])
    H = torch.func.hessian(loss)(z.detach()).reshape(z.numel(), z.numel())
    return J.mT @ (H @ (J @ v))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_products_are_torchs_own(variant: str, hooked: Any, tokens: Tensor) -> None:
    """Hessian and GGN along a random vector; the head is found, and in every operator agrees with the logits."""
    model = hooked(**VARIANTS[variant])
    problem = Problem(model, [tokens[:1], tokens[1:]], NextTokenLoss(chunk_bytes=11 * 8 * 4))
    held = Problem(model, [tokens[:1], tokens[1:]], NextTokenLoss(chunked=False))
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    for operator, kind in ((HessianOperator, "hessian"), (GGNOperator, "ggn")):
        expected = product(model, tokens, kind, v)
        found = operator(problem) @ v
        assert (found - expected).norm() <= TOLERANCE * expected.norm()
        assert (found - (1 + 1e-3) * expected).norm() > TOLERANCE * expected.norm()
    for operator in (HessianOperator, GGNOperator, FisherOperator, EmpiricalFisherOperator):
        found, expected = operator(problem) @ v, operator(held) @ v
        assert (found - expected).norm() <= TOLERANCE * expected.norm()
    assert problem.loss.head is not None
    assert problem.loss.softcap == VARIANTS[variant].get("output_logits_soft_cap")


def test_the_loss_is_the_models_own_with_and_without_padding(hooked: Any, tokens: Tensor) -> None:
    model = hooked()
    mask = torch.ones_like(tokens)
    mask[0, 3:], mask[1, :1] = 0, 0
    for batch in (tokens, {"tokens": tokens, "attention_mask": mask}):
        options = {"attention_mask": mask} if isinstance(batch, dict) else {}
        loss = NextTokenLoss()
        with torch.no_grad():
            own = model(tokens, return_type="loss", **options)
            mean = loss.loss_sum(loss.outputs(model, batch), batch) / loss.num_units(batch)
        assert abs(float(mean - own)) <= 1e-12 * float(own)


def test_folded_weights_are_the_model_as_it_is_now(hooked: Any, tokens: Tensor) -> None:
    model = hooked()
    before = model(tokens)
    model.process_weights_()  # folds the norms, centres what writes and what reads out
    found, expected = (functional.log_softmax(z, -1) for z in (model(tokens), before))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)
    problem = Problem(model, [tokens], NextTokenLoss())
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    expected = product(model, tokens, "ggn", v)
    assert ((GGNOperator(problem) @ v) - expected).norm() <= TOLERANCE * expected.norm()
    assert problem.loss.head is not None


@pytest.mark.parametrize("variant", ["plain", "grouped"])
def test_heads_are_slices_of_the_models_own_tensors(variant: str, hooked: Any) -> None:
    """W_Q and W_O by their first axis; keys and values by the groups that the heads read."""
    model = hooked(**VARIANTS[variant])
    heads, groups = model.cfg.n_heads, model.cfg.n_key_value_heads or model.cfg.n_heads
    for component in named_components(model):
        if not component.name.startswith("blocks.0.attn.") or component.name.endswith("b_O"):
            continue
        count = groups if component.name[-1] in "KV" else heads
        assert component.num_heads == count == len(component.parameter)
        mask = torch.zeros_like(component.parameter, dtype=torch.bool)
        mask[(heads - 1) * count // heads] = True
        assert torch.equal(component.mask((heads - 1,)), mask)
    names = component_names(model)
    assert {"embed.W_E", "pos_embed.W_pos", "blocks.1.mlp.W_in", "blocks.0.attn.W_K", "unembed.b_U"} <= set(names)
    assert names["blocks.0.attn.W_K"] == f"blocks.0.attn.{'_' if variant == 'grouped' else ''}W_K"
    problem = Problem(model, [], NextTokenLoss())
    assert problem.restrict(match_components("blocks.1.mlp")).parameters.names == tuple(
        f"blocks.1.mlp.{leaf}" for leaf in ("W_in", "b_in", "W_out", "b_out")
    )
    with pytest.raises(ValueError, match="Near names: blocks.0.attn"):
        problem.restrict(match_components("blocks.0.atn"))


def test_a_component_is_the_submatrix_of_the_whole(hooked: Any, tokens: Tensor) -> None:
    model = hooked()
    problem = Problem(model, [tokens], NextTokenLoss())
    part = problem.restrict(match_components("blocks.0.attn", heads=[1]))
    whole = torch.zeros(problem.parameters.n, dtype=torch.float64)
    v = part.space.random("gaussian", 0, 0, 1)[0]
    named = problem.parameters.to_named(whole) | part.parameters.to_named(v)
    whole_product = product(model, tokens, "hessian", problem.parameters.from_named(named))
    expected = part.parameters.from_named(
        {name: t for name, t in problem.parameters.to_named(whole_product).items() if name in part.parameters.names}
    )
    found = HessianOperator(part) @ v
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


@pytest.mark.parametrize(
    ("hook", "options"),
    [
        ("blocks.0.hook_resid_post", {}),
        ("blocks.0.hook_resid_post", {"position": 1}),
        ("blocks.0.attn.hook_z", {"head": 1}),
        ("blocks.1.attn.hook_pattern", {"head": 0, "position": 2}),
    ],
)
def test_hook_points_are_those_of_the_run_from_there_on(
    hook: str, options: dict[str, int], hooked: Any, tokens: Tensor
) -> None:
    """torch.func.hessian of run_with_hooks with the activation in its place."""
    model = hooked()
    _, cache = model.run_with_cache(tokens)
    a = cache[hook].detach()

    def loss(x: Tensor) -> Tensor:
        z = model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda _, hook: x)])
        return functional.cross_entropy(z[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    whole = torch.func.hessian(loss)(a).reshape(a.numel(), a.numel()).detach()
    pairs = hook.endswith("pattern")
    position, head = options.get("position", slice(None)), options.get("head", slice(None))
    at = (slice(None), head, position) if pairs else (slice(None), position, *([head] if "head" in options else []))
    places = torch.arange(a.numel()).view(a.shape)[at].flatten()
    expected = whole[places][:, places]
    found = HookPointOperator(Problem(model, [tokens], NextTokenLoss()), hook, **options).to_dense()
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
    if not pairs and "head" not in options:
        D = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        E = D.repeat(1, len(expected) // 8)
        directed = HookPointOperator(
            Problem(model, [tokens], NextTokenLoss()), hook, directions=D, **options
        ).to_dense()
        assert (directed - E @ expected @ E.mT).norm() <= TOLERANCE * directed.norm()


def test_interventions_leave_the_users_hooks_and_nothing_else(hooked: Any, tokens: Tensor) -> None:
    model, other = hooked(), hooked()
    hook = "blocks.0.attn.hook_z"
    seen = []
    model.add_hook(hook, lambda a, hook: seen.append(a.shape))
    before = {name: list(point.fwd_hooks) for name, point in model.hook_dict.items()}
    problem = Problem(model, [tokens], NextTokenLoss())
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    with interventions(model, [(hook, ablated(head=0)), ("blocks.1.hook_mlp_out", patched(torch.ones(8)))]):
        under = GGNOperator(problem) @ v
    assert {name: list(point.fwd_hooks) for name, point in model.hook_dict.items()} == before
    assert seen
    other.add_hook(hook, lambda a, hook: torch.cat([0.0 * a[:, :, :1], a[:, :, 1:]], dim=2))
    other.add_hook("blocks.1.hook_mlp_out", lambda a, hook: torch.ones_like(a))
    expected = product(other, tokens, "ggn", v)
    assert (under - expected).norm() <= TOLERANCE * expected.norm()
    with (
        pytest.raises(ValueError, match="Near names: blocks.0.attn.hook_z"),
        interventions(model, [("blocks.0.atn.hook_z", ablated())]),
    ):
        pass


def test_a_model_in_training_mode_is_left_in_it(hooked: Any, tokens: Tensor) -> None:
    model = hooked().train()
    GGNOperator(Problem(model, [tokens], NextTokenLoss())) @ torch.ones(
        sum(p.numel() for p in model.parameters()), dtype=torch.float64
    )
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
