"""The head: with a bias, an adapter, a trained copy; or none that can be used, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_families import F64, ROUNDING, batch_for, family_model, relative, settled
from peft import IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from curvkit_core import GGNOperator, HessianOperator, Problem, eigsh
from curvkit_core.checks import PreflightError
from curvkit_hf import CausalLMLoss
from curvkit_hf.checked_inputs import first_row

# PEFT's own: on an attribute that transformers renames, on Conv1D beside Linear, on tied heads (nothing is saved here)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer of type Linear has no bias"),
]
BATCH = batch_for("CausalLMLoss")


class Unbound:
    """The adapter on logits, never bound."""

    def __init__(self) -> None:
        self.inner = CausalLMLoss()
        for method in ("outputs", "loss_sum", "num_units", "ggn", "second_order"):
            setattr(self, method, getattr(self.inner, method))


def agrees(model: nn.Module, head: str | None, **options: Any) -> Problem:
    """Products through what was found are those of the logits."""
    problem = Problem(model, [BATCH], CausalLMLoss(), **options)
    assert problem.loss.head == head
    plain = Problem(model, [BATCH], Unbound(), **options)
    V = problem.space.random("gaussian", 3, 0, 1)
    for kind in (GGNOperator, HessianOperator):
        expected = kind(plain).apply(V)
        assert relative(kind(problem).apply(V), expected) <= ROUNDING
        assert float(expected.norm()) > 0.0
    return problem


def lora(**options: Any) -> nn.Module:
    """A GPT-2 with low-rank adapters whose second factors are no zeros."""
    config = LoraConfig(r=2, lora_alpha=3, lora_dropout=0.1, fan_in_fan_out=True, **options)
    model = get_peft_model(family_model("gpt2"), config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(F64).eval()


def test_only_the_adapters_are_selected_and_the_frozen_head_costs_nothing() -> None:
    problem = agrees(lora(target_modules=["c_attn"]), "base_model.model.lm_head")
    assert problem.parameters.names
    assert all("lora" in name for name in problem.parameters.names)


def test_an_adapter_on_the_head_is_part_of_its_weight() -> None:
    model = lora(target_modules=["c_attn", "lm_head"])
    problem = agrees(model, "base_model.model.lm_head")
    assert any("lm_head.lora_A" in name for name in problem.parameters.names)
    with model.disable_adapter():
        agrees(model, "base_model.model.lm_head", params="*ln_f*")


def test_adapters_that_are_no_low_rank_sum_go_through_logits() -> None:
    """At first they change no logit, but derivatives: a factor's bias, IA3's scaling, a layer's own sum."""
    bias = LoraConfig(r=2, lora_alpha=3, target_modules=["lm_head"], lora_bias=True)
    scaling = IA3Config(target_modules=["lm_head"], feedforward_modules=[])
    for config, kind in ((bias, "one with a bias"), (scaling, "a peft.tuners.ia3.layer.Linear")):
        problem = agrees(get_peft_model(family_model("llama"), config).to(F64).eval(), None)
        assert f"the head's adapter 'default' is {kind}, not a product of two factors" in problem.history.findings[0]

    class Adapted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(16, 40, bias=False)
            self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 40, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden) + self.up(self.down(hidden))

    model = family_model("gpt2")
    model.lm_head = Adapted().to(F64)
    problem = agrees(model, None, params="lm_head.up*")
    assert "the head is a Adapted, not a linear layer" in problem.history.findings[0]


def test_dora_is_refused_since_its_own_gradient_is_none_of_its_forward() -> None:
    """It detaches the norm that it divides by. Through the head's two factors the product would pass, and be wrong."""
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["lm_head"], use_dora=True)
    problem = Problem(get_peft_model(family_model("llama"), config).to(F64).eval(), [BATCH], CausalLMLoss())
    assert problem.loss.head is None
    assert "'default' is DoraLinearVariant, not a product" in problem.history.findings[0]
    with pytest.raises(PreflightError, match="product-disagrees"):
        GGNOperator(problem).apply(problem.space.random("gaussian", 3, 0, 1))


def test_hooks_on_the_head_go_through_logits_for_as_long_as_they_sit_there() -> None:
    """The head's own forward alone runs them, one inside an adapter too; a look at what enters it is no such hook."""
    model = lora(target_modules=["c_attn", "lm_head"])
    head = model.get_submodule("base_model.model.lm_head")
    problem = agrees(model, "base_model.model.lm_head")
    for module in (head, head.base_layer):
        handle = module.register_forward_hook(lambda module, inputs, output: 2.0 * output)
        assert len(problem.loss.outputs(model, BATCH)) == 1
        plain = Problem(model, [BATCH], Unbound())
        V = problem.space.random("gaussian", 3, 0, 1)
        assert relative(GGNOperator(problem).apply(V), GGNOperator(plain).apply(V)) <= ROUNDING
        handle.remove()
    head.register_forward_pre_hook(lambda module, inputs: (1.5 * inputs[0],))
    assert len(problem.loss.outputs(model, BATCH)) == 2
    plain = Problem(model, [BATCH], Unbound())
    assert relative(GGNOperator(problem).apply(V), GGNOperator(plain).apply(V)) <= ROUNDING


def test_a_trained_copy_of_the_head_is_the_head() -> None:
    model = lora(target_modules=["c_attn"], modules_to_save=["lm_head"])
    problem = agrees(model, "base_model.model.lm_head")
    assert any("modules_to_save" in name for name in problem.parameters.names)


def test_a_bias_is_part_of_the_head() -> None:
    model = family_model("gpt2")
    head = nn.Linear(16, 40).to(F64)
    model.lm_head = head
    assert len(agrees(model, "lm_head").loss.outputs(model, BATCH)) == 3


def test_factors_are_read_and_not_guessed() -> None:
    """Granite's divisor is its own; a head whose factor no configuration tells is not used, and the reason is told."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = GraniteConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, logits_scaling=3.0)
    model = settled(GraniteForCausalLM(config))
    problem = Problem(model, [BATCH], CausalLMLoss())
    assert problem.loss.logit_scale == pytest.approx(1.0 / 3.0)

    class Doubled(GPT2LMHeadModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = 2.0 * out.logits
            return out

    doubled = settled(Doubled(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2)))
    problem = agrees(doubled, None)
    found = eigsh(GGNOperator(problem), k=1, max_matvecs=3, ncv=3, seed=0)
    assert any("no linear head is used: its logits differ from the model's by" in line for line in found.info.findings)


def test_reasons_for_no_head_are_told() -> None:
    """No linear layer; none at all; one that is called twice; one behind which a shape is taken for granted."""

    class Cubed(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, hidden: Tensor) -> Tensor:
            return (hidden @ self.weight.mT) ** 3

    model = family_model("gpt2")
    model.lm_head = Cubed(model.lm_head.weight.detach().clone())
    assert "the head is a Cubed, not a linear layer" in agrees(model, None).history.findings[0]

    class Twice(GPT2LMHeadModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits + self.lm_head(self.transformer.wte(kwargs["input_ids"]))
            return out

    class Fixed(GPT2LMHeadModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.view(*kwargs["input_ids"].shape, 40)
            return out

    class Hidden(GPT2LMHeadModel):
        def get_output_embeddings(self) -> None:
            return None

    for kind, reason in (
        (Twice, "'lm_head' is called 2 times in a forward, not once"),
        (Fixed, "the model does not run with no positions at its head"),
        (Hidden, "get_output_embeddings() gives no module"),
    ):
        model = settled(kind(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2)))
        assert reason in agrees(model, None).history.findings[0]


def test_a_look_at_the_model_takes_a_row_where_rows_can_be_told() -> None:
    assert {name: len(t) for name, t in first_row(BATCH).items()} == dict.fromkeys(BATCH, 1)
    patches = {**BATCH, "pixel_values": torch.zeros(7, 3)}
    assert first_row(patches) is patches
    assert first_row(BATCH["input_ids"]).shape == (1, 6)


def test_no_hook_is_left_on_the_head() -> None:
    model = family_model("gpt2")
    problem = agrees(model, "lm_head")
    assert not model.lm_head._forward_pre_hooks
    problem.loss.outputs(model, BATCH)
    with pytest.raises(ValueError, match="expected 0 <= id < 40"):
        problem.loss.outputs(model, {"input_ids": BATCH["input_ids"] + 40})
    assert not model.lm_head._forward_pre_hooks
