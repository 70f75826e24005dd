"""What the kernels read and write, counted in the interpreter at every load and store: docs/kernels.md has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define
from triton.runtime.interpreter import InterpreterBuilder

import curvkit_triton.linear_ce as module
from curvkit_core.kernels import LinearCeOptions
from curvkit_triton.ce_hvp import ce_hvp
from curvkit_triton.linear_ce import launch_options, triton_linear_ce


@define
class Traffic:
    """Elements, masked ones left out."""

    read: int = 0
    written: int = 0


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Counts from here on."""
    count = Traffic()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        count.read += int(np.sum(mask.data))
        return load(self, pointers, mask, *rest)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        count.written += int(np.sum(mask.data))
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counted_load)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", counted_store)
    return count


@pytest.mark.parametrize("classes", [10, 5000])
def test_ce_hvp_reads_an_element_once_a_sweep(classes: int, traffic: Traffic) -> None:
    """2 (logits) + 2 (u) reads and one write an element, and the row's weight; of an ignored row only the writes."""
    z, u = torch.randn(3, classes), torch.randn(3, classes)
    ce_hvp(z, torch.tensor([1.0, 0.0, 2.0]), u)
    assert traffic == Traffic(read=2 * 4 * classes + 3, written=3 * classes)


@pytest.mark.parametrize("newton", [True, False])
def test_linear_ce_reads_as_the_table_says(newton: bool, traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile reads n D + v D of the head and of the direction; sweep 2 these and what it adds up with and to."""
    monkeypatch.setattr(module, "processors", lambda _: 0)  # no splits
    N, V, D = 64, 128, 32
    blocks = launch_options(torch.float32, "" if newton else "hessian")
    n, v = blocks["BLOCK_N"], blocks["BLOCK_V"]
    tiles = (N // n) * (V // v)
    h, W = torch.randn(N, D), torch.randn(V, D)
    wanted = (True, True, False)
    targets = torch.zeros(N, dtype=torch.int64)
    triton_linear_ce.product(
        (h, W, None), targets, LinearCeOptions(), None, (h[None], W[None], None), wanted, gauss_newton=newton
    )
    tile = 2 * (n + v) * D
    second = 1 if newton else 2  # the Hessian's sums take dW and dh as well
    sweep_1 = tiles * tile + 3 * N
    by_rows = tiles * (tile + second * v * D + n * D)
    by_words = tiles * (tile + second * n * D + v * D)
    of_rows = 2 * tiles * n * (4 if newton else 7)  # top, rate, factor, mean; target, share, mass
    assert traffic.read == sweep_1 + by_rows + by_words + of_rows
    assert traffic.written == 4 * N + tiles * (n * D + v * D)


@pytest.mark.parametrize(
    ("sweep", "number"), [("loss", 1), ("slopes", 3), ("gradient", 5), ("gauss-newton", 11), ("hessian", 13)]
)
def test_linear_ce_takes_as_many_matmuls_as_it_says(sweep: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiplications of all dots, in units of N V D; what is not wanted takes no part."""
    N, V, D = 64, 128, 32
    done = []
    plain = InterpreterBuilder.create_dot

    def counted(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        done.append(a.data.shape[0] * a.data.shape[1] * b.data.shape[1])
        return plain(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    h, W = torch.randn(N, D), torch.randn(V, D)
    head, along = ((h, W, None), torch.zeros(N, dtype=torch.int64), LinearCeOptions()), (h[None], W[None], None)

    def run(wanted: tuple[bool, bool, bool]) -> float:
        done.clear()
        if sweep == "loss":
            triton_linear_ce(*head)
        elif sweep == "slopes":
            triton_linear_ce.slopes(*head, (h, W, None), None)
        elif sweep == "gradient":
            triton_linear_ce.gradient(*head, torch.ones(N), wanted)
        else:
            triton_linear_ce.product(*head, None, along, wanted, gauss_newton=sweep == "gauss-newton")
        return sum(done) / (N * V * D)

    assert run((True, True, False)) == number
    if number > 3:
        assert run((False, False, False)) == 0
        assert run((True, False, False)) == run((False, True, False)) < number
