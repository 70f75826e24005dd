"""These tests need transformers and run tiny models with random weights, with no network: `nox -s "plugin(hf)"`."""

import os

# read by huggingface_hub when it is imported: nothing here asks the hub for anything
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_state():
    """Every test begins with the same numbers."""
    torch.manual_seed(0)
