"""Memory budgets are read, and graphs are weighed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvkit_core.linearize.graph_size import graph_bytes
from curvkit_core.linearize.memory import free_memory, parse_bytes


def test_budgets_are_read() -> None:
    assert parse_bytes(None) is None
    assert parse_bytes(12) == 12
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("1.5 GB") == 1_500_000_000
    assert parse_bytes("500mb") == 500_000_000
    assert parse_bytes("2048") == 2048
    for bad in ("-1", "8 apples", -1, 1.5, True, "GiB"):
        with pytest.raises(ValueError, match="memory_budget=.*expected a number of bytes"):
            parse_bytes(bad)


def test_free_memory_is_a_plausible_number() -> None:
    assert 10**7 < free_memory(torch.device("cpu")) < 10**14


def test_a_graph_is_weighed_by_what_it_saves() -> None:
    """Linear-tanh-linear on 100 rows: the input (left out), tanh's output; a tensor saved twice counts once."""
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    x = torch.randn(100, 10)
    held = graph_bytes([model(x)], besides=[x, *model.parameters()])
    assert held == 100 * 20 * 4
    assert graph_bytes([model(x)], besides=model.parameters()) == held + 100 * 10 * 4
    assert graph_bytes([x]) == 0
