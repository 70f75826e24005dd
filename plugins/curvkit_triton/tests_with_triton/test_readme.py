"""The README's Python runs; nothing is multiplied, which would take a GPU."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from curvkit_core.testing import tiny_problem
from curvkit_triton.ce_hvp import ce_hvp

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_block_runs() -> None:
    """With a problem of ours, which then has the kernels."""
    (program,) = re.findall(r"^    from .*\n(?:(?:    .*)?\n)+", README.read_text(), re.MULTILINE)
    names = {"problem": tiny_problem("mlp").problem()}
    exec(textwrap.dedent(program), names)
    assert names["problem"].kernels.ce_hvp is ce_hvp
