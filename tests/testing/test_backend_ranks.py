"""Two real gloo processes: a backend that adds sums and counts passes, one that averages means does not."""

from __future__ import annotations

import pytest

from curvkit_core import BackendSpec, load_registry
from curvkit_core.testing import run_checks


def results(cls: str) -> dict[str, object]:
    spec = BackendSpec(
        name="local/gloo",
        summary="Replicated over gloo",
        factory=f"testing.gloo_backends:{cls}",
        tags=["replicated"],
    )
    return {r.name: r for r in run_checks(spec, registry=load_registry(allow=[], environ={}))}


def test_sums_and_counts_over_two_ranks_are_one_process_own() -> None:
    """Batches of 2, 3 and 4 rows: rank 0 has two of them, rank 1 one."""
    found = results("Gloo")
    assert [str(result) for result in found.values() if result.failed] == []
    assert found["backend-two-ranks"].status == "pass"
    assert found["backend-two-ranks"].numbers["the relative gap of the product"] <= 1e-12


@pytest.mark.parametrize(
    ("cls", "reason"), [("MeanOfMeans", "the relative gap of the product is"), ("HangsOnOneRank", "ended with code 1")]
)
def test_a_backend_that_is_wrong_on_two_ranks_is_seen(cls: str, reason: str) -> None:
    """Alone it is right: nothing but two ranks can show it."""
    found = results(cls)
    assert found["backend-product"].status == "pass"
    assert found["backend-two-ranks"].status == "fail"
    assert reason in found["backend-two-ranks"].reason
