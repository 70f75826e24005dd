"""What curvkit asks of this plugin's loss, operators and problem, one test a law."""

from __future__ import annotations

from typing import Any

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="tlens")
def test_conformance(check: Any) -> None:
    """Passes, or fails as expected with the reason."""
    check()
