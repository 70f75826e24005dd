"""What the plugin registers, without transformer_lens: names, configurations, explanations."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from curvkit_core import Problem
from curvkit_tlens import NextTokenLoss, component_names, interventions
from curvkit_tlens.config import NextTokenConfig
from curvkit_tlens.next_token import build


def child(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, "-m", "curvkit_core", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept)


def test_the_components_are_listed():
    done = child("list-plugins", "--components", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [p for p in json.loads(done.stdout)["plugins"] if p["name"] == "tlens"]
    assert (row["status"], row["findings"]) == ("ok", [])
    assert all(f"tlens/{stem}" in done.stdout for stem in ("next-token", "component", "hook-point", "bridge"))


@pytest.mark.parametrize("name", ["tlens/next-token", "tlens/component", "tlens/hook-point", "tlens/bridge"])
def test_every_component_explains_its_options(name):
    done = child("explain", name)
    assert done.returncode == 0, done.stderr
    assert "Parameters" not in done.stdout


def test_the_loss_is_built_from_its_configuration():
    loss = build(NextTokenConfig(chunked=False, label_smoothing=0.1, ignore_index=-1))
    assert (loss.chunked, loss.label_smoothing, loss.ignore_index) == (False, 0.1, -1)


def test_other_models_are_refused_by_name():
    """A plain module is none of TransformerLens's, and what gives no logits is no language model."""
    with (
        pytest.raises(TypeError, match="Linear has no hook_dict: expected a TransformerLens model"),
        interventions(nn.Linear(2, 2), [("hook_embed", lambda a, hook: a)]),
    ):
        pass

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, tokens, return_type=None):
            return self.embed(tokens).mean(1)

    problem = Problem(Pooled(), [torch.tensor([[1, 2]])], NextTokenLoss())
    with pytest.raises(TypeError, match=r"Pooled gave logits of shape \(1, 3\): expected a tensor \(N, T, V\)"):
        problem.loss.outputs(problem.model, torch.tensor([[1, 2]]))
    assert component_names(nn.Sequential(nn.Linear(2, 2))) == {"0.weight": "0.weight", "0.bias": "0.bias"}


def test_attention_without_second_derivatives_is_eager_for_the_context():
    """Flash attention's configuration, shared by modules and behind a wrapper; sdpa's is core's business."""

    class Config:
        def __init__(self, kind: str) -> None:
            self._attn_implementation = kind

    flash, sdpa = Config("flash_attention_2"), Config("sdpa")
    inner = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    inner[0].config = inner[1].config = flash
    inner[2].config = sdpa
    model = nn.Module()
    model.__dict__["original_model"] = inner  # as a bridge holds it
    with pytest.raises(RuntimeError, match="on purpose"), NextTokenLoss().second_order(model):
        assert (flash._attn_implementation, sdpa._attn_implementation) == ("eager", "sdpa")
        raise RuntimeError("on purpose")
    assert (flash._attn_implementation, sdpa._attn_implementation) == ("flash_attention_2", "sdpa")
