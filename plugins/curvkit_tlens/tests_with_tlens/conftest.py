"""These tests need transformer_lens 4 and run tiny models with random weights, offline: `nox -s "plugin(tlens)"`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# read by huggingface_hub when it is imported: nothing here asks the hub for anything
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # what transformer_lens and its own dependencies say when they are imported
    warnings.simplefilter("ignore")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformer_lens.model_bridge import TransformerBridge

VOCABULARY = 30
KINDS = ("gpt2", "llama")

torch.set_num_threads(1)


def _config(kind: str) -> Any:
    if kind == "gpt2":  # W_E and W_U tied
        return transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.3
        )
    return transformers.LlamaConfig(  # pairs of heads share keys and values
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )


def _tokenizer() -> Any:
    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"</s>": VOCABULARY - 1}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", bos_token="</s>", unk_token="w0"
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a kind of model, as ``save_pretrained`` leaves it, with a tokenizer of words w0 ... w28."""
    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_config(kind)).double()
        for name, parameter in model.named_parameters():  # norms that do more than pass on
            if parameter.ndim == 1:
                with torch.no_grad():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            assert parameter.isfinite().all(), name
        model.save_pretrained(found[kind])
        _tokenizer().save_pretrained(found[kind])
    return found


@pytest.fixture
def boot(folders: dict[str, Path]) -> Callable[..., nn.Module]:
    """``boot("gpt2")``: a bridge in float64, its own at each call."""

    def make(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return TransformerBridge.boot_transformers(str(folders[kind]), dtype=dtype, device="cpu")

    return make


@pytest.fixture
def plain(folders: dict[str, Path]) -> Callable[[str], nn.Module]:
    """The same weights in transformers' own model, eager."""

    def make(kind: str) -> nn.Module:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folders[kind], dtype=torch.float64, attn_implementation="eager"
        ).eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """(3, 6) tokens."""
    return torch.randint(0, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def native() -> Callable[..., nn.Module]:
    """``native(n_heads=2)``: a small network of TransformerLens's own, in float64."""

    def make(**fields: Any) -> nn.Module:
        config = {
            "n_layers": 1,
            "d_model": 6,
            "n_ctx": 8,
            "d_head": 3,
            "n_heads": 2,
            "d_vocab": 7,
            "act_fn": "gelu",
            "seed": 0,
            "init_mode": "gpt2",
            "initializer_range": 0.5,
        } | fields
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return TransformerBridge.boot_native(config, dtype=torch.float64, device="cpu")

    return make
