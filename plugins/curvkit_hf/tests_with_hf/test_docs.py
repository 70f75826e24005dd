"""The Python of docs/huggingface.md runs; it is indented there, since core's own tests run fenced blocks without hf."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from hf_families import VOCABULARY, batch_for
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

PAGE = Path(__file__).parents[3] / "docs" / "huggingface.md"


def test_python_blocks_run(tmp_path: Path) -> None:
    """Each that imports something; the one on training with a model, rows and probes of ours."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", PAGE.read_text(), re.MULTILINE)
    programs = [block for block in blocks if re.search(r"^    (from|import) ", block, re.MULTILINE)]
    assert len(programs) == 2
    torch.manual_seed(0)
    small = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    rows = [{"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor([3, 4, 5])}]
    given = {"model": small, "arguments": arguments, "rows": rows, "probe_batches": [batch_for("CausalLMLoss")]}
    for program in programs:
        names = dict(given)
        exec(re.sub(r"^    ", "", program, flags=re.MULTILINE), names)
