"""Parameters by component and head, against TransformerLens's own weights by head, and against ablated heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvkit_core import GGNOperator, HessianOperator, Problem, match_names
from curvkit_tlens import NextTokenLoss, ablated, component_names, interventions, match_components
from curvkit_tlens.named_components import named_components

HEADS = {"gpt2": 2, "llama": 4}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_parameter_that_the_forward_reads_has_a_name(kind: str, boot: Any, plain: Any) -> None:
    """HookedTransformer's names; what a bridge never reads has none; their sizes add up to the plain model's."""
    model = boot(kind)
    names = component_names(model)
    block = {"W_Q", "W_K", "W_V", "W_O"} | ({"b_Q", "b_K", "b_V", "b_O"} if kind == "gpt2" else set())
    assert {n.rpartition(".")[2] for n in names if n.startswith("blocks.1.attn.")} == block
    assert {"embed.W_E", "unembed.W_U", "blocks.0.ln1.w", "blocks.1.mlp.W_in", "ln_final.w"} <= set(names)
    assert ("pos_embed.W_pos" in names) == (kind == "gpt2")
    assert ("blocks.0.mlp.W_gate" in names) == (kind == "llama")
    distinct = {id(c.parameter): c.parameter.numel() for c in named_components(model)}
    assert sum(distinct.values()) == sum(p.numel() for p in plain(kind).parameters())
    assert set(names.values()) <= set(Problem(model, [], NextTokenLoss()).parameters.names)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_heads_part_is_what_transformer_lens_calls_that_heads_weight(kind: str, boot: Any) -> None:
    """The elements in the mask, as a set, against W_Q[head] of the bridge's own (heads, model, head) tensors."""
    model = boot(kind)
    own = dict(model.tl_named_parameters())
    for component in named_components(model):
        if not component.num_heads:
            continue
        weight = own[component.name]
        for head in range(HEADS[kind]):
            mine = component.parameter[component.mask((head,))].detach().sort().values
            group = head // component.heads_each
            theirs = weight[group if len(weight) == component.num_heads else head].detach().flatten().sort().values
            assert torch.equal(mine, theirs), (component.name, head)
            assert not torch.equal(
                mine, weight[(head + 1) % HEADS[kind] // component.heads_each].flatten().sort().values
            ) or (component.heads_each > 1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_head_whose_output_is_zeroed_has_no_curvature_and_the_others_have(
    kind: str, boot: Any, tokens: Tensor
) -> None:
    """Heads of parameters and heads of activations are the same heads: only the ablated one's matrix vanishes."""
    model = boot(kind)
    problem = Problem(model, [tokens], NextTokenLoss())
    # of W_K and W_V no head is alone in Llama: those of its queries and outputs
    parts = [problem.restrict(match_components("blocks.0.attn.W_[QO]", heads=[h])) for h in range(HEADS[kind])]
    zeroed = 1
    with interventions(model, [("blocks.0.attn.hook_z", ablated(head=zeroed))]):
        norms = [float((GGNOperator(p, cache="rebuild") @ ones(p)).norm()) for p in parts]
    assert norms[zeroed] == 0.0
    assert min(n for h, n in enumerate(norms) if h != zeroed) > 1e-6
    assert float((GGNOperator(parts[zeroed]) @ ones(parts[zeroed])).norm()) > 1e-6


def ones(problem: Problem) -> Tensor:
    return torch.ones(problem.parameters.n, dtype=torch.float64)


def test_names_globs_and_parts_of_names_select(boot: Any) -> None:
    model = boot("gpt2")
    problem = Problem(model, [], NextTokenLoss())

    def selected(*components: str, **options: Any) -> set[str]:
        return set(problem.restrict(match_components(*components, **options)).parameters.names)

    attention = {f"transformer.h.0.attn.{m}.{leaf}" for m in "qkvo" for leaf in ("weight", "bias")}
    assert selected("blocks.0.attn") == selected("blocks.0.attn.*") == attention
    assert selected("W_Q") == {"transformer.h.0.attn.q.weight", "transformer.h.1.attn.q.weight"}
    assert selected("blocks.1.mlp") == {
        f"transformer.h.1.mlp.{m}.{leaf}" for m in ("c_fc", "c_proj") for leaf in ("weight", "bias")
    }
    assert selected("embed") == selected("unembed") == {"transformer.wte.weight"}  # tied: counts once, under each name
    assert selected("embed", "pos_embed") == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert selected("blocks.*.ln1") == {f"transformer.h.{i}.ln_1.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")}
    heads = problem.restrict(match_components("blocks.0", heads=[0, 1])).parameters  # both: whole tensors, b_O left out
    assert set(heads.names) == attention - {"transformer.h.0.attn.o.bias"}
    assert all(e.elements is None for e in heads)
    one = problem.restrict(match_components("blocks.0.attn", heads=[1])).parameters
    assert one.n == 4 * 8 * 4 + 3 * 4


def test_frozen_parameters_are_selected_by_name_and_unused_ones_give_zeros(boot: Any, tokens: Tensor) -> None:
    """A bridge keeps the joint qkv beside its parts and never reads it."""
    model = boot("gpt2")
    model.requires_grad_(False)
    problem = Problem(model, [tokens], NextTokenLoss(), params=match_components("blocks.0.attn.W_V"))
    assert problem.parameters.n == 64
    assert bool((HessianOperator(problem) @ ones(problem)).any())
    unused = problem.restrict(match_names("*.qkv.*", "*.ln_f.weight"))
    product = unused.parameters.to_named(GGNOperator(unused) @ ones(unused))
    assert not product["transformer.h.0.attn.qkv.weight"].any()
    assert bool(product["transformer.ln_f.weight"].any())
    with pytest.raises(ValueError, match="none of the model's .* parameters requires grad"):
        Problem(model, [tokens], NextTokenLoss())


def test_names_that_fit_nothing_show_near_names_and_the_mapping(boot: Any) -> None:
    model = boot("gpt2")
    problem = Problem(model, [], NextTokenLoss())
    with pytest.raises(
        ValueError, match=r"fits 'blocks.1.atn'. Near names: blocks.1.attn.* blocks.1.attn.W_Q = transfor"
    ):
        problem.restrict(match_components("blocks.1.atn"))
    with pytest.raises(ValueError, match=r"heads=\[0, 2\]: 2 is no head: the model has 2, 0 to 1"):
        problem.restrict(match_components("attn", heads=[0, 2]))
    with pytest.raises(ValueError, match=r"nothing that fits 'mlp' has heads \(blocks.0.mlp.W_in"):
        problem.restrict(match_components("mlp", heads=[0]))
    with pytest.raises(TypeError, match="expected one or more names such as 'blocks.3.attn'"):
        match_components()
    with pytest.raises(TypeError, match=r"heads=\[\]: expected one or more integers"):
        match_components("attn", heads=[])
    with pytest.raises(TypeError, match="Linear has no cfg: match_components is for TransformerLens models"):
        Problem(nn.Linear(2, 2), [], nn.MSELoss(), params=match_components("attn"))
