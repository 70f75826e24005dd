"""The Python of docs/transformerlens.md and of the README runs from top to bottom."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

PAGE = Path(__file__).parents[3] / "docs" / "transformerlens.md"
README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_block_runs(native: Callable[..., nn.Module]) -> None:
    """With a network of ours that has layer 3, and heads 0 and 5."""
    (program,) = re.findall(r"^    from .*\n(?:(?:    .*)?\n)+", README.read_text(), re.MULTILINE)
    model = native(n_layers=4, n_heads=6, d_model=12, d_head=2)
    exec(textwrap.dedent(program), {"model": model, "tokens": torch.tensor([[1, 2, 3, 4]])})


@pytest.mark.filterwarnings("ignore::UserWarning:transformer_lens")
def test_the_pages_indented_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    """They are indented, not fenced: core's tests, which run fenced blocks, have no transformer_lens."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE.read_text(), re.MULTILINE)
    source = "\n".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    assert source.count("HookPointOperator(") == 2
    exec(compile(source, str(PAGE), "exec"), {"__name__": "docs_transformerlens"})
    assert len(capsys.readouterr().out.splitlines()) >= 6
