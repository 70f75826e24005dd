"""The README's Python runs, on a group of one."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import torch

from curvkit_core import MSELoss, Problem
from curvkit_ddp.cases import group_of_one

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_block_runs() -> None:
    """What it leaves to the reader is given: a model, batches, a loss."""
    (program,) = re.findall(r"^    from .*\n(?:(?:    .*)?\n)+", README.read_text(), re.MULTILINE)
    names = {"model": torch.nn.Linear(2, 1), "batches": [(torch.ones(3, 2), torch.ones(3, 1))], "loss": MSELoss()}
    with group_of_one():
        exec(textwrap.dedent(program), names)
        problem = names["problem"]
        assert isinstance(problem, Problem)
        assert problem.num_units == 3
