"""What curvkit asks of every backend, one test a law."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from curvkit_core.testing import parametrize_with_checks
from curvkit_ddp.cases import CASES, group_of_one


@pytest.fixture(autouse=True, scope="module")
def one_process_is_a_group() -> Iterator[None]:
    """For this file's tests alone: others hold what happens where there is no group."""
    with group_of_one():
        yield


@parametrize_with_checks(plugin="ddp", cases=CASES)
def test_conformance(check: Any) -> None:
    """Passes, or fails as expected with the reason."""
    check()
