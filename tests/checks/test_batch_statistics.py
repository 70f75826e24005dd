"""BatchNorm in train mode with microbatches: another operator for every cut, refused where a batch is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import relative, tied_mlp
from torch import nn

from curvkit_core import GGNOperator
from curvkit_core.checks import PreflightError
from curvkit_core.checks.batch_statistics import uses_batch_statistics


def product(**options: Any) -> torch.Tensor:
    operator = GGNOperator(tied_mlp().problem((9, 4), **options))
    return operator @ torch.linspace(-1.0, 1.0, operator.n, dtype=operator.dtype)


def test_microbatches_with_batch_statistics_are_refused() -> None:
    with pytest.raises(PreflightError, match=r"\[batchnorm-train-microbatch\] batch 0 was cut .*=5\), and 'norm'"):
        product(mode="train", microbatch_size=5)
    cut = product(mode="train", microbatch_size=5, preflight="off")
    assert relative(cut, product(mode="train", preflight="off")) > 1e-3


@pytest.mark.parametrize("options", [{"mode": "eval", "microbatch_size": 4}, {"mode": "train", "microbatch_size": 9}])
def test_without_batch_statistics_or_without_a_cut_all_is_well(options: dict[str, Any]) -> None:
    assert relative(product(**options), product(mode=options["mode"])) <= 1e-12


def test_which_modules_use_batch_statistics() -> None:
    """The flag of the module itself counts; without running statistics every mode does; InstanceNorm is by example."""
    model = nn.ModuleDict(
        {
            "still": nn.BatchNorm1d(2).eval(),
            "moving": nn.BatchNorm2d(2).train(),
            "untracked": nn.BatchNorm1d(2, track_running_stats=False).eval(),
            "instance": nn.InstanceNorm1d(2).train(),
            "group": nn.GroupNorm(1, 2).train(),
        }
    )
    assert uses_batch_statistics(model) == ["moving", "untracked"]
