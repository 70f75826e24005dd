"""Curvature under hooks, and what is left behind: nothing of ours, everything of the user's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvkit_core import GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError
from curvkit_tlens import NextTokenLoss, ablated, interventions, match_components, patched

HOOK = "blocks.0.attn.hook_z"


def all_hooks(model: nn.Module) -> list[Any]:
    """Every hook of every hook point, torch's and TransformerLens's own lists (transformers adds some elsewhere)."""
    return [(name, list(p._forward_hooks.items()), list(p.fwd_hooks)) for name, p in model.hook_dict.items()]


def product(problem: Problem, operator: Any = GGNOperator) -> Tensor:
    return operator(problem) @ torch.ones(problem.parameters.n, dtype=torch.float64)


@pytest.mark.parametrize("operator", [GGNOperator, HessianOperator])
def test_products_under_a_hook_are_those_of_the_hooked_model(operator: Any, boot: Any, tokens: Tensor) -> None:
    """The same problem before, under and after, its graphs kept, against a fresh model that has the hook for good."""
    model, other = boot("gpt2"), boot("gpt2")
    scale = lambda a, hook: a * torch.tensor([1.0, 0.5], dtype=a.dtype)[:, None]  # noqa: E731 - a hook, per head
    problem = Problem(model, [tokens], NextTokenLoss(), params=match_components("blocks"))
    before = product(problem, operator)
    hooks = all_hooks(model)
    with interventions(model, [(HOOK, scale)]):
        under = product(problem, operator)
    assert all_hooks(model) == hooks
    after = product(problem, operator)
    other.add_hook(HOOK, scale)
    expected = product(Problem(other, [tokens], NextTokenLoss(), params=match_components("blocks")), operator)
    assert (after - before).norm() <= 1e-12 * before.norm()  # by another strategy, after changes: rounding
    assert (under - expected).norm() <= 1e-11 * expected.norm()
    assert (under - before).norm() > 1e-3 * before.norm()


def test_hooks_are_taken_away_after_an_error_and_the_users_stay(boot: Any, tokens: Tensor) -> None:
    """At the same points: TransformerLens's own context would take the user's along."""
    model = boot("gpt2")
    user = []
    model.add_hook(HOOK, lambda a, hook: user.append(tuple(a.shape)))
    hooks = all_hooks(model)
    with pytest.raises(RuntimeError, match="on purpose"), interventions(model, [(HOOK, ablated()), (HOOK, ablated())]):
        assert all_hooks(model) != hooks
        model(tokens)
        raise RuntimeError("on purpose")
    assert all_hooks(model) == hooks
    assert user == [(3, 6, 2, 4)]
    with interventions(model, [(HOOK, ablated(head=0))]):
        model.reset_hooks()  # whatever a user does inside
    assert all_hooks(model) != hooks
    assert not any(h for _, torch_hooks, own in all_hooks(model) for h in (*torch_hooks, *own))


def test_contexts_nest_with_each_other_and_with_run_with_hooks(boot: Any, tokens: Tensor) -> None:
    model = boot("gpt2")
    with torch.no_grad():
        plain = model(tokens)
        with interventions(model, [(HOOK, ablated(head=0))]):
            one = model(tokens)
            with interventions(model, [(lambda name: name == HOOK, ablated(head=1))]):
                both = model(tokens)
            inside = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_mlp_out", ablated())])
            assert torch.equal(model(tokens), one)
        nothing = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, ablated())])
        assert torch.equal(both, nothing)
        assert not torch.allclose(one, plain)
        assert not torch.allclose(one, both)
        assert not torch.allclose(one, inside)
        assert torch.equal(model(tokens), plain)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_problem_may_carry_its_interventions(boot: Any, tokens: Tensor) -> None:
    """As its forward_context: hooks sit on the model during its forwards alone."""
    model = boot("gpt2")
    hooks = [(HOOK, ablated(head=1))]
    carried = Problem(model, [tokens], NextTokenLoss(), forward_context=lambda: interventions(model, hooks))
    with interventions(model, hooks):
        expected = product(Problem(model, [tokens], NextTokenLoss()))
    assert (product(carried) - expected).norm() <= 1e-11 * expected.norm()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_activations_of_another_run_are_patched_in_where_asked(boot: Any, tokens: Tensor) -> None:
    """Whole, a head's, a position's: what stands there afterwards, seen by a hook that comes later."""
    model = boot("gpt2")
    _, cache = model.run_with_cache(tokens.flip(0))
    value = cache[HOOK].detach()
    seen = []
    look = lambda a, hook: seen.append(a.detach().clone())  # noqa: E731 - the later hook
    with torch.no_grad():
        _, own = model.run_with_cache(tokens)
        for options in ({}, {"head": 1}, {"head": [0], "position": -1}):
            with interventions(model, [(HOOK, patched(value, **options)), (HOOK, look)]):
                model(tokens)
    heads = [slice(None), 1, 0]
    positions = [slice(None), slice(None), -1]
    for found, head, position in zip(seen, heads, positions, strict=True):
        expected = own[HOOK].clone()
        expected[:, position, head] = value[:, position, head]
        assert torch.equal(found, expected)


def test_hooks_on_the_unembedding_go_through_logits(boot: Any, tokens: Tensor) -> None:
    """The chunked head would not run them; with the hook gone it is used again."""
    model = boot("gpt2")
    problem = Problem(model, [tokens], NextTokenLoss())
    before = product(problem)
    assert len(problem.loss.outputs(model, tokens)) == 3
    with interventions(model, [("unembed.hook_out", lambda z, hook: 2.0 * z)]):
        under = product(problem)
        assert len(problem.loss.outputs(model, tokens)) == 1
    other = boot("gpt2")
    other.unembed.hook_out.add_hook(lambda z, hook: 2.0 * z)
    hooked = Problem(other, [tokens], NextTokenLoss())
    assert (under - product(hooked)).norm() <= 1e-11 * under.norm()
    assert "hooks sit on the unembedding" in hooked.history.findings[0]
    assert (product(problem) - before).norm() <= 1e-12 * before.norm()


def test_names_that_are_none_are_refused_before_anything_is_added(boot: Any) -> None:
    model = boot("gpt2")
    hooks = all_hooks(model)
    refused = [
        (
            [(HOOK, ablated()), ("blocks.0.attn.hook_zz", ablated())],
            "hook='blocks.0.attn.hook_zz' is no hook point .* Near",
        ),
        ([(lambda name: False, ablated())], "fits no name of a hook point"),
        (
            [("blocks.0.hook_resid_post", ablated(head=0))],
            r"head=0 at 'blocks.0.hook_out': .* shape \(1, 2, 8\), without",
        ),
    ]
    for wanted, match in refused:
        with pytest.raises(ValueError, match=match), interventions(model, wanted):
            model(torch.tensor([[1, 2]]))
    assert all_hooks(model) == hooks


def test_a_model_in_training_mode_is_run_in_eval_and_left_in_training(boot: Any, tokens: Tensor) -> None:
    """GPT-2's dropout is 0.1: in mode="train" the checks refuse a forward that does not repeat."""
    model = boot("gpt2")
    expected = product(Problem(model, [tokens], NextTokenLoss()))
    model.train()
    modes = [m.training for m in model.modules()]
    assert all(modes)
    assert torch.equal(product(Problem(model, [tokens], NextTokenLoss())), expected)
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(PreflightError, match="forward-not-repeatable"):
        product(Problem(model, [tokens], NextTokenLoss(), mode="train"))
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
