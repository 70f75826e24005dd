"""What curvkit asks of every backend, one test a law."""

from __future__ import annotations

from typing import Any

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="ddp")
def test_conformance(check: Any) -> None:
    """Passes; nothing is expected to fail."""
    check()
