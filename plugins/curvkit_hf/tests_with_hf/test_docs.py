"""The code of docs/huggingface.md and of the README runs; it is indented, since core's own tests run fenced blocks."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

import torch
from hf_families import VOCABULARY, batch_for
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from curvkit_core.config import structure
from curvkit_hf.config import PretrainedConfig

PAGE = Path(__file__).parents[3] / "docs" / "huggingface.md"
README = Path(__file__).parents[1] / "README.md"


def indented(page: Path) -> list[str]:
    """The page's indented blocks."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in blocks if block.strip()]


def programs_of(page: Path) -> list[str]:
    """Those that import something."""
    return [block for block in indented(page) if re.search(r"^(from|import) ", block, re.MULTILINE)]


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def test_the_readmes_block_runs() -> None:
    """With a model and a batch of ours."""
    (program,) = programs_of(README)
    exec(program, {"model": small_model(), "batches": [batch_for("CausalLMLoss")]})


def test_the_run_files_table_is_one() -> None:
    """Every key is the problem's, every value of its type."""
    (block,) = [block for block in indented(PAGE) if block.startswith("schema = 1")]
    (name, table), *_ = ((k, v) for k, v in tomllib.loads(block).items() if isinstance(v, dict))
    assert (name, table.pop("kind")) == ("problem", "hf/pretrained")
    assert structure(PretrainedConfig, table, source="the page").text == table["text"]


def test_python_blocks_run(tmp_path: Path) -> None:
    """Each that imports something; the one on training with a model, rows and probes of ours."""
    programs = programs_of(PAGE)
    assert len(programs) == 2
    small = small_model()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    rows = [{"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor([3, 4, 5])}]
    given = {"model": small, "arguments": arguments, "rows": rows, "probe_batches": [batch_for("CausalLMLoss")]}
    for program in programs:
        exec(program, dict(given))
