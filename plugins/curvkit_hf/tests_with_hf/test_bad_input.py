"""What cannot be computed is refused by name, with the mend."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from hf_families import VOCABULARY, batch_for, family_model
from torch import nn
from transformers import BertConfig, BertLMHeadModel, BertModel, GPT2Config, GPT2LMHeadModel

from curvkit_core import GGNOperator, Problem
from curvkit_hf import CausalLMLoss, MaskedLMLoss, Seq2SeqLMLoss, loss_for

BATCH = batch_for("CausalLMLoss")
BERT = {"vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def refuses(model: nn.Module, batch: Any, loss: Any, match: str) -> None:
    """The first product of a problem says it."""
    with pytest.raises((ValueError, TypeError), match=match):
        problem = Problem(model, [batch], loss)
        GGNOperator(problem) @ torch.ones(problem.parameters.n, dtype=problem.parameters.dtype)


def test_no_labels_and_none_derivable() -> None:
    model = family_model("gpt2")
    embedded = {"inputs_embeds": torch.randn(1, 3, 16, dtype=torch.float64)}
    refuses(
        model, embedded, CausalLMLoss(), "fields inputs_embeds and no labels, and none can be derived: it has no in"
    )
    mask = torch.full((2, 1, 6, 6), -torch.inf, dtype=torch.float64).triu(1)
    four = {"input_ids": BATCH["input_ids"], "attention_mask": mask}
    refuses(model, four, CausalLMLoss(), r"none can be derived: it has an attention_mask of shape \(1, 1, 6, 6\)")
    refuses(family_model("bert"), {"input_ids": BATCH["input_ids"]}, MaskedLMLoss(), "MaskedLMLoss: .* no labels")
    refuses(family_model("t5"), {"input_ids": BATCH["input_ids"]}, Seq2SeqLMLoss(), "Seq2SeqLMLoss: .* no labels")


def test_all_labels_ignored() -> None:
    ignored = {**BATCH, "labels": torch.full((2, 6), -100)}
    refuses(family_model("gpt2"), ignored, CausalLMLoss(), "no units: all targets are ignored")


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_labels_outside_the_vocabulary(wrong: int) -> None:
    """Through the head and through logits; the place is the target's, after the shift."""
    labels = BATCH["labels"].clone()
    labels[0, 2] = wrong
    text = rf"CausalLMLoss: the target at \(0, 1\) is {wrong}: expected 0 <= target < 40, .* or -100 for one that does"
    refuses(family_model("gpt2"), {**BATCH, "labels": labels}, CausalLMLoss(), text)
    with pytest.raises(ValueError, match=text):
        CausalLMLoss().outputs(family_model("gpt2"), {**BATCH, "labels": labels})


def test_tokens_outside_the_vocabulary() -> None:
    ids = BATCH["input_ids"].clone()
    ids[0, 0] = VOCABULARY + 3
    refuses(
        family_model("gpt2"), {"input_ids": ids}, CausalLMLoss(), "input_ids holds 43: expected 0 <= id < 40, GPT2L"
    )


@pytest.mark.parametrize(("name", "context"), [("gpt2", 32), ("llama", 32), ("roberta", 31)])
def test_rows_longer_than_the_context(name: str, context: int) -> None:
    """RoBERTa's positions begin behind the padding's, so one of its 32 is none."""
    ids = torch.randint(3, VOCABULARY, (1, context + 1))
    text = rf"input_ids has {context + 1} tokens a row, and .*'s positions are made for {context} .*at most {context} t"
    refuses(family_model(name), {"input_ids": ids, "labels": ids}, loss_for(family_model(name)), text)
    fits = {"input_ids": ids[:, :context], "labels": ids[:, :context]}
    assert Problem(family_model(name), [fits], loss_for(family_model(name))).loss.head is not None


def test_an_encoder_given_to_the_causal_adapter() -> None:
    """One that predicts masked tokens, one with a decoder's class and an encoder's configuration; a decoder passes."""
    text = "is no causal language model as it is configured: its logits before token 5 change by .*Use MaskedLMLoss"
    refuses(family_model("bert"), BATCH, CausalLMLoss(), f"BertForMaskedLM {text}")
    torch.manual_seed(0)
    encoder = BertLMHeadModel(BertConfig(**BERT, num_attention_heads=2, is_decoder=False)).eval()
    refuses(encoder, BATCH, CausalLMLoss(), f"BertLMHeadModel {text}")
    torch.manual_seed(0)
    decoder = BertLMHeadModel(BertConfig(**BERT, num_attention_heads=2, is_decoder=True)).eval()
    assert Problem(decoder, [BATCH], CausalLMLoss()).loss.head is not None


def test_a_model_without_a_head_and_one_that_is_no_encoder_decoder() -> None:
    bare = BertModel(BertConfig(**BERT, num_attention_heads=2)).eval()
    refuses(bare, BATCH, MaskedLMLoss(), "BertModel returned a .* without logits: it has no head")
    refuses(family_model("gpt2"), BATCH, Seq2SeqLMLoss(), "GPT2LMHeadModel has no rule that makes decoder_input_ids")
    with pytest.raises(ValueError, match=r"no loss adapter fits BertModel .*expected one named like \*ForCausalLM"):
        loss_for(bare)


def test_a_batch_that_is_no_mapping() -> None:
    refuses(
        family_model("gpt2"), (BATCH["input_ids"], BATCH["labels"]), CausalLMLoss(), "a batch is a tuple: expected a m"
    )


def test_a_model_on_meta() -> None:
    """Whole, as a problem says; or in part, as device_map leaves it, of which the adapter tells."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    refuses(model, BATCH, CausalLMLoss(), "parameter 'transformer.wte.weight' is on the meta device")
    part = family_model("gpt2")
    part.transformer.h[1] = model.transformer.h[1]
    problem = Problem(part, [BATCH], CausalLMLoss(), params="transformer.h.0")
    with pytest.raises(
        ValueError, match=r"parameters of GPT2LMHeadModel are on the meta device .*'transformer.h.1.ln_1"
    ):
        _ = problem.loss


def test_a_quantised_model() -> None:
    """By transformers' own flag, and by bitsandbytes' parameters alone."""
    model = family_model("gpt2")
    config = types.SimpleNamespace(quant_method="bitsandbytes")
    model.hf_quantizer = types.SimpleNamespace(quantization_config=config)
    refuses(
        model, BATCH, CausalLMLoss(), r"GPT2LMHeadModel is quantised \(bitsandbytes\).* without quantization_config"
    )

    class Params4bit(nn.Parameter):
        pass

    model = family_model("gpt2")
    model.transformer.h[0].attn.c_attn.weight = Params4bit(model.transformer.h[0].attn.c_attn.weight.detach())
    refuses(model, BATCH, CausalLMLoss(), r"GPT2LMHeadModel is quantised \(bitsandbytes\)")


@pytest.mark.parametrize("package", ["liger_kernel", "unsloth"])
def test_a_patched_model(package: str) -> None:
    """Its forward, or a module's class, is a patcher's; neither package is installed, so their marks are made."""

    def forward(self: nn.Module, **inputs: Any) -> Any:
        return GPT2LMHeadModel.forward(self, **inputs)

    forward.__module__ = f"{package}.transformers.model.gpt2"
    model = family_model("gpt2")
    model.forward = types.MethodType(forward, model)
    refuses(model, BATCH, CausalLMLoss(), f"GPT2LMHeadModel is patched by {package}: .*Load the model unpatched")

    fused_norm = type("FusedNorm", (nn.LayerNorm,), {"__module__": f"{package}.ops.norm"})
    model = family_model("gpt2")
    model.transformer.ln_f = fused_norm(16).double()
    refuses(model, BATCH, CausalLMLoss(), f"'transformer.ln_f', a FusedNorm, is patched by {package}")
