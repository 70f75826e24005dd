"""The Python of docs/transformerlens.md runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "transformerlens.md"


@pytest.mark.filterwarnings("ignore::UserWarning:transformer_lens")
def test_the_pages_indented_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    """They are indented, not fenced: core's tests, which run fenced blocks, have no transformer_lens."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE.read_text(), re.MULTILINE)
    source = "\n".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    assert source.count("HookPointOperator(") == 2
    exec(compile(source, str(PAGE), "exec"), {"__name__": "docs_transformerlens"})
    assert len(capsys.readouterr().out.splitlines()) >= 6
