"""The example in short form: sharpness of full-batch gradient descent rises to 2 / learning rate and stays there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "progressive_sharpening.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("progressive_sharpening", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sharpness_rises_to_two_over_the_learning_rate(example: ModuleType) -> None:
    """Below 2 at first and rising; above 1.8 from step 240 on, never past 2.6, and the loss still falls."""
    rows = example.train(421, 4.0, every=60).rows
    stability = [row.stability for row in rows]
    assert stability[0] < 1.6
    assert stability[0] < stability[1] < stability[2] < stability[3]
    assert all(1.8 < value < 2.6 for value in stability[4:]), stability
    assert rows[-1].loss < 0.2 * rows[0].loss
    assert all(row.converged for row in rows)


def test_a_small_learning_rate_stays_far_below_it(example: ModuleType) -> None:
    """Negative control: an eighth of the learning rate never comes near 2 in as many steps."""
    rows = example.train(241, 0.5, every=120).rows
    assert all(row.stability < 0.5 for row in rows)
