"""What curvkit asks of every loss adapter and problem, one test a law."""

from __future__ import annotations

from typing import Any

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="hf")
def test_conformance(check: Any) -> None:
    """Passes, or fails as expected with the reason."""
    check()
