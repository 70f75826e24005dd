"""The conformance kit on both Triton kernels, in the interpreter: every law of a kernel but those of speed."""

from __future__ import annotations

from typing import Any

import pytest

from curvkit_core import default_registry
from curvkit_core.testing import Case, parametrize_with_checks

CASES = [Case(component=name, device="cpu", assume_available=True) for name in ("triton/ce-hvp", "triton/linear-ce")]
SPECS = [default_registry().kernels.get(case.component) for case in CASES]


@pytest.mark.usefixtures("exact_bfloat16_dots")
@parametrize_with_checks(specs=SPECS, cases=CASES)
def test_conformance(check: Any) -> None:
    check()
