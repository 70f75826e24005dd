"""Two real gloo processes: a backend that adds sums and counts passes, one that averages means does not.

A sharded one is tried on models that its case prepares.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from testing.sharded_backends import sharded

from curvkit_core import BackendSpec, load_registry
from curvkit_core.testing import Case, run_checks
from curvkit_ddp.cases import group_of_one


def results(cls: str, module: str = "testing.gloo_backends", tag: str = "replicated", **case: Any) -> dict[str, object]:
    spec = BackendSpec(name="local/gloo", summary="On purpose", factory=f"{module}:{cls}", tags=[tag])
    cases = [Case(component="local/gloo", **case)]
    return {r.name: r for r in run_checks(spec, cases=cases, registry=load_registry(allow=[], environ={}))}


def sharded_results(cls: str, module: str, **case: Any) -> dict[str, object]:
    return results(cls, module, "sharded", within=group_of_one, **case)


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


def test_a_sharded_backend_is_tried_on_models_in_parts() -> None:
    """Alone and on two ranks, whose rows do not divide; where nothing prepares the model, two ranks are a skip."""
    found = sharded_results("ShardedBackend", "curvkit_ddp", prepare=sharded)
    assert [str(result) for result in found.values() if result.failed] == []
    assert {found[f"backend-{law}"].status for law in ("product", "two-ranks")} == {"pass"}
    assert found["backend-two-ranks"].numbers["the relative gap of the product"] <= 1e-12
    plain = sharded_results("ShardedBackend", "curvkit_ddp")
    assert plain["backend-product"].status == "fail"
    assert "hand in Case(component='local/gloo', prepare=...)" in plain["backend-two-ranks"].reason
    elsewhere = sharded_results("ShardedBackend", "curvkit_ddp", prepare=partial(sharded))
    assert elsewhere["backend-product"].status == "pass"
    assert elsewhere["backend-two-ranks"].status == "skip"
    assert "is no module's own, so that no other process can import it" in elsewhere["backend-two-ranks"].reason


def test_a_sharded_backend_that_is_wrong_on_two_ranks_is_seen() -> None:
    found = sharded_results("CountsItsOwn", "testing.sharded_backends", prepare=sharded)
    assert found["backend-product"].status == "pass"
    assert found["backend-two-ranks"].status == "fail"
    assert "the relative gap of the product is" in found["backend-two-ranks"].reason
