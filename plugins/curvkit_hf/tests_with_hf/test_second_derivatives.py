"""Fused implementations give way for as long as second derivatives are computed, and no longer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_families import FAMILIES, VOCABULARY, batch_for, family_model, relative
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.masking_utils import eager_mask

from curvkit_core import GGNOperator, HessianOperator, Problem
from curvkit_hf import CausalLMLoss
from curvkit_hf.second_derivatives import twice_differentiable

BATCH = batch_for("CausalLMLoss")
CALLS: list[str] = []


def moe(experts: str | None) -> nn.Module:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        decoder_sparse_step=1,
        **({} if experts is None else {"experts_implementation": experts}),
    )
    model = Qwen3MoeForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("experts", [None, "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", [GGNOperator, HessianOperator])
def test_every_implementation_of_experts_gives_the_eager_products(experts: str | None, kind: Any) -> None:
    """In float32, as grouped products ask: some tens of eps32 = 1.2e-7 through two layers and two derivatives."""
    eager = kind(Problem(moe("eager"), [BATCH], CausalLMLoss()))
    V = eager.space.random("gaussian", 0, 0, 1)
    expected = eager.apply(V)
    model = moe(experts)
    before = model.config._experts_implementation
    for strategy in ("reverse", "lean"):
        found = kind(Problem(model, [BATCH], CausalLMLoss()), strategy=strategy).apply(V)
        assert relative(found, expected) <= 2e-5
        assert relative(1.001 * found, expected) > 2e-5
    assert model.config._experts_implementation == before != "eager"


def fused(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any):
    """Stands in for FlashAttention on a machine without it: it is called, and differentiates once only."""
    from transformers.models.llama.modeling_llama import eager_attention_forward

    CALLS.append(type(module).__name__)
    out, weights = eager_attention_forward(module, query, key, value, mask, **options)
    return OnceOnly.apply(out), weights


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope


@pytest.mark.parametrize("kind", [GGNOperator, HessianOperator])
def test_attention_without_second_derivatives_is_replaced_and_put_back(kind: Any) -> None:
    AttentionInterface.register("fused_once", fused)
    AttentionMaskInterface.register("fused_once", eager_mask)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).double().eval()
    batch = {"input_ids": BATCH["input_ids"], "labels": BATCH["labels"]}
    eager = kind(Problem(model, [batch], CausalLMLoss()))
    V = eager.space.random("gaussian", 0, 0, 1)
    expected = eager.apply(V)
    model.set_attn_implementation("fused_once")
    CALLS.clear()
    found = kind(Problem(model, [batch], CausalLMLoss())).apply(V)
    assert relative(found, expected) <= 2e-5
    assert CALLS  # what is differentiated once may be fused: the binding, a gradient
    assert model.config._attn_implementation == "fused_once"


def test_what_was_chosen_is_back_after_an_error() -> None:
    """sdpa stays where it is: core runs its math form."""
    model = moe("batched_mm")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(KeyError), twice_differentiable(model):
        assert model.config._experts_implementation == "eager"
        assert model.config._attn_implementation == "sdpa"
        raise KeyError
    assert model.config._experts_implementation == "batched_mm"


def test_encoders_and_decoders_have_configurations_of_their_own() -> None:
    """T5's two stacks; each is as it was."""
    model = family_model("t5", FAMILIES["t5"].attentions[-1])
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    model.encoder.config._attn_implementation = "flex_attention"
    before = {key: config._attn_implementation for key, config in configs.items()}
    with twice_differentiable(model):
        assert all(config._attn_implementation in ("eager", "sdpa") for config in configs.values())
    assert {key: config._attn_implementation for key, config in configs.items()} == before
