"""What a run is known by: hashes to which parts add up, so that a run may go on with other ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import tied_mlp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from curvkit_core import HessianOperator, LambdaOperator, Problem
from curvkit_core.algorithms import Eigsh
from curvkit_core.algorithms import identity as module
from curvkit_core.algorithms.identity import differences, identity

WHOLE = 1 << 64


def hashed(values: Tensor, start: int = 0) -> int:
    return module._hash_of_elements(values, start) % WHOLE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@given(cuts=st.lists(st.integers(0, 200_000), max_size=4), seed=st.integers(0, 9))
def test_parts_add_up_to_the_whole(dtype: torch.dtype, cuts: list[int], seed: int) -> None:
    """h(x) = sum of h(runs), each with its start; across the places where the weights come again (2^16)."""
    x = (100 * torch.randn(200_000, generator=torch.Generator().manual_seed(seed))).to(dtype)
    ends = [0, *sorted(cuts), len(x)]
    parts = [hashed(x[low:high], low) for low, high in itertools.pairwise(ends)]
    assert sum(parts) % WHOLE == hashed(x)
    moved = [hashed(x[low:high], low + 1) for low, high in itertools.pairwise(ends)]
    assert sum(moved) % WHOLE != hashed(x)  # control: another place


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_places_count(dtype: torch.dtype) -> None:
    """One bit, a swap, two flipped signs, a swap of blocks of 2^16: each is another hash."""
    x = torch.randn(1 << 17, dtype=dtype, generator=torch.Generator().manual_seed(0))
    swapped, signs, blocks, bit = (x.clone() for _ in range(4))
    swapped[[3, 5]] = x[[5, 3]]
    signs[[3, 5]] *= -1.0
    blocks[: 1 << 16], blocks[1 << 16 :] = x[1 << 16 :], x[: 1 << 16]
    bit[7] = torch.nextafter(x[7], torch.tensor(9.0, dtype=dtype))
    assert len({hashed(t) for t in (x, swapped, signs, blocks, bit)}) == 5
    assert hashed(x.clone()) == hashed(x)


def test_wrappers_are_not_part_of_it() -> None:
    """The class that ``fully_shard`` derives, and DistributedDataParallel, are the model's own class; others count."""

    class FSDPModule:  # as torch names it
        pass

    class Derived(FSDPModule, nn.Linear):
        pass

    class DistributedDataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert module._class_name(Derived(2, 2)) == "Linear"
    assert module._class_name(DistributedDataParallel()) == "Linear"
    assert module._class_name(nn.Bilinear(2, 2, 2)) == "Bilinear"


def test_a_changed_model_buffer_or_input_is_told() -> None:
    """A weight, a buffer and a right-hand side: each is the one thing that differs."""
    case = tied_mlp()
    op = HessianOperator(Problem(case.model, case.batches(), case.loss))
    assert op.problem is not None
    b = op.problem.space.random("gaussian", 0, 0, 1)[0]

    def here(vector: Tensor = b) -> dict[str, object]:
        return identity(Eigsh(k=1), op, {"b": vector})

    before = here()
    assert differences(before, here()) == []
    (line,) = differences(before, here(b * (1.0 + 1e-15)))
    assert line.startswith(f"inputs.b: 'float64 {op.n} ")
    with torch.no_grad():
        case.model.last.bias[0] += 1e-12
    (line,) = differences(before, here())
    assert line.startswith("operator.problem.values: ")
    with torch.no_grad():
        case.model.last.bias.copy_(tied_mlp().model.last.bias)
        case.model.norm.running_mean[0] += 1e-6
    (line,) = differences(before, here())
    assert line.startswith("operator.problem.values: ")


def test_small_inputs_are_hashed_as_they_are() -> None:
    """What is no vector of the space: by its bytes."""
    op = LambdaOperator(lambda v: v, 5)
    found = identity(Eigsh(k=1), op, {"C": torch.zeros(2, 3), "n": 4})["inputs"]
    assert found["C"].startswith("float32 2x3 ") and found["n"] == 4
