"""These tests need transformer_lens 2, whose models are HookedTransformers: `nox -s tlens2`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # what transformer_lens and its own dependencies say when they are imported
    warnings.simplefilter("ignore")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

torch.set_num_threads(1)


@pytest.fixture
def hooked() -> Callable[..., nn.Module]:
    """``hooked(n_heads=2)``: a small HookedTransformer in float64 with random weights, every bias among them."""

    def make(**fields: Any) -> nn.Module:
        config = HookedTransformerConfig(
            **{
                "n_layers": 2,
                "d_model": 8,
                "n_ctx": 8,
                "d_head": 4,
                "n_heads": 2,
                "d_vocab": 11,
                "act_fn": "gelu_new",
                "seed": 0,
                "device": "cpu",
                "dtype": torch.float64,
            }
            | fields
        )
        with torch.random.fork_rng(devices=[]):
            model = HookedTransformer(config)
            torch.manual_seed(0)
            for parameter in model.parameters():
                parameter.data = torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1)
        return model

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """(2, 4) tokens."""
    return torch.randint(0, 11, (2, 4), generator=torch.Generator().manual_seed(1))
