"""Tiny models of every family with random weights in float64, a batch for each, and dense matrices by another path.

The oracle differentiates the model's own logits under eager attention, an output at a time: nothing in it goes through
curvkit, nor through a linear head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

F64 = torch.float64
VOCABULARY = 40
# GPT-2, BERT and their kin compute in the parameters' dtype throughout: what is left are sums of some hundred terms
# through two layers, in float64. The others hold float32 inside (norms, rotary angles, or the attention's softmax):
# eps32 = 1.2e-7 there, some tens of roundings of it through two layers and two derivatives.
ROUNDING, FLOAT32_INSIDE = 1e-9, 2e-5


@frozen(kw_only=True)
class Family:
    """How a tiny model is made, which adapter it takes, and how exactly it computes in float64."""

    make: Callable[[str], nn.Module]
    adapter: str = "CausalLMLoss"
    tolerance: float = FLOAT32_INSIDE
    head: str = "lm_head"
    attentions: tuple[str, ...] = ("eager", "sdpa")


_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        make=lambda attention: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=4, attn_implementation=attention
            )
        ),
        tolerance=ROUNDING,
    ),
    "llama": Family(make=lambda a: LlamaForCausalLM(LlamaConfig(**_GROUPED, attn_implementation=a))),
    "qwen2": Family(
        make=lambda a: Qwen2ForCausalLM(Qwen2Config(**_GROUPED, tie_word_embeddings=True, attn_implementation=a))
    ),
    "gemma2": Family(
        make=lambda a: Gemma2ForCausalLM(
            Gemma2Config(
                **_GROUPED,
                head_dim=4,
                sliding_window=4,
                final_logit_softcapping=3.0,
                attn_logit_softcapping=5.0,
                attn_implementation=a,
            )
        ),
        attentions=("eager",),  # transformers has no other for its capped attention
    ),
    "mistral": Family(
        make=lambda a: MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=4, attn_implementation=a))
    ),
    "gpt-neox": Family(make=lambda a: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES, attn_implementation=a))),
    "opt": Family(
        make=lambda a: OPTForCausalLM(
            OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                ffn_dim=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=32,
                word_embed_proj_dim=16,
                attn_implementation=a,
            )
        )
    ),
    "cohere": Family(
        make=lambda a: CohereForCausalLM(CohereConfig(**_GROUPED, logit_scale=0.25, attn_implementation=a))
    ),
    "granite": Family(
        make=lambda a: GraniteForCausalLM(
            GraniteConfig(**_GROUPED, logits_scaling=3.0, embedding_multiplier=2.0, attn_implementation=a)
        )
    ),
    "qwen3-moe": Family(
        make=lambda a: Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                **_GROUPED,
                head_dim=4,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=8,
                decoder_sparse_step=1,
                attn_implementation=a,
                experts_implementation="eager",  # grouped products take no float64
            )
        )
    ),
    "bert": Family(
        make=lambda a: BertForMaskedLM(BertConfig(**_SIZES, attn_implementation=a)),
        adapter="MaskedLMLoss",
        tolerance=ROUNDING,
        head="cls.predictions.decoder",
    ),
    "roberta": Family(
        make=lambda a: RobertaForMaskedLM(RobertaConfig(**_SIZES, attn_implementation=a)),
        adapter="MaskedLMLoss",
        tolerance=ROUNDING,
        head="lm_head.decoder",
    ),
    "t5": Family(
        make=lambda a: T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY,
                d_model=16,
                d_kv=4,
                d_ff=24,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
                attn_implementation=a,
            )
        ),
        adapter="Seq2SeqLMLoss",
        attentions=("eager", "sdpa") if T5ForConditionalGeneration._supports_sdpa else ("eager",),  # not in 5.0
    ),
    "bart": Family(
        make=lambda a: BartForConditionalGeneration(
            BartConfig(
                vocab_size=VOCABULARY,
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=24,
                decoder_ffn_dim=24,
                max_position_embeddings=32,
                forced_eos_token_id=None,
                attn_implementation=a,
            )
        ),
        adapter="Seq2SeqLMLoss",
        tolerance=ROUNDING,
    ),
}


def settled(model: nn.Module, spread: float = 0.15) -> nn.Module:
    """The model in float64 and eval mode with weights that are far from their tiny initial values."""
    model = model.to(F64).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, dtype=F64, generator=generator))
        if isinstance(bias := getattr(model, "final_logits_bias", None), Tensor):
            bias.copy_(torch.randn(bias.shape, dtype=F64, generator=generator))
    return model


def family_model(name: str, attention: str = "eager") -> nn.Module:
    """A tiny model, the same weights whatever the attention."""
    torch.manual_seed(0)
    return settled(FAMILIES[name].make(attention))


def batch_for(adapter: str) -> dict[str, Tensor]:
    """Two rows, one of them padded on the right, and labels that leave some out."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    ids[mask == 0] = 0
    if adapter == "CausalLMLoss":
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}
    labels = torch.randint(3, VOCABULARY, (2, 6 if adapter == "MaskedLMLoss" else 4), generator=generator)
    labels[0, 1] = labels[1, 2] = labels[0, 3] = -100
    if adapter == "MaskedLMLoss":
        labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def without_padding_rows(model: nn.Module) -> nn.Module:
    """The model with every row of its embeddings differentiated: torch's gradient leaves padding's out."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
    return model


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The model's own ``.loss``."""
    with torch.no_grad():
        return model(**batch).loss


def logits_and_targets(model: nn.Module, batch: dict[str, Tensor], adapter: str) -> tuple[Tensor, Tensor]:
    """The rows of logits that a target counts for, and those targets; shifted by slices, as a textbook has it."""
    logits = model(**batch).logits
    labels = batch["labels"]
    if adapter == "CausalLMLoss":
        logits, labels = logits[:, :-1], labels[:, 1:]
    keep = labels != -100
    return logits[keep], labels[keep]


def dense_jacobian(rows: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """d rows / d parameters, (rows.numel(), n), a reverse pass an output."""
    found = []
    for output in rows.reshape(-1):
        parts = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(parts, parameters, strict=True)
        found.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]))
    return torch.stack(found)


def gauss_newton_product(rows: Tensor, parameters: list[nn.Parameter], V: Tensor) -> Tensor:
    """The mean over rows of J^T (diag p - p p^T) J, with dense J, times each row of V."""
    J = dense_jacobian(rows, parameters).reshape(*rows.shape, -1)
    p = torch.softmax(rows.detach(), dim=-1)
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    products = []
    for v in V:
        u = (H @ (J @ v)[..., None])[..., 0]
        products.append(torch.einsum("rc,rcn->n", u, J) / len(rows))
    return torch.stack(products)


def dense_hessian(rows: Tensor, targets: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The Hessian of the mean cross-entropy, a reverse pass a row of it."""
    loss = functional.cross_entropy(rows, targets)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    return dense_jacobian(torch.cat([s.reshape(-1) for s in slopes]), parameters)


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())
