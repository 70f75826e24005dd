"""Every kernel compiles with no GPU present, and none of its registers spills. A process a chip, a minute or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# bytes of shared memory that a program may have
LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}


@pytest.fixture(scope="module", params=LIMITS)
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """A row a kernel and set of options, and first two controls."""
    script = Path(__file__).with_name("ahead_of_time.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), request.param]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_compile_without_spills_and_within_shared_memory(rows: list[dict[str, Any]]) -> None:
    """Registers, spills and shared memory as they stand in the cubin or HSACO, of 70 launches or so."""
    assert len(rows) > 60
    assert {row["kernel"] for row in rows[2:]} == {"_ce_hvp_kernel", "stats_kernel", "rows_kernel", "words_kernel"}
    assert rows[1]["spills"] > 0
    for row in rows[2:]:
        assert row["binary"] > 1000, row
        assert row["registers"] > 8, row
        assert row["spills"] == 0, row
        assert row["shared"] <= LIMITS[row["target"]], row


def test_where_a_block_starts_is_computed_in_64_bits(rows: list[dict[str, Any]]) -> None:
    """16,384 rows of a 151,936-word vocabulary are 2^31.2 elements; a kernel that counts them in int32 is seen."""
    control, _, *kernels = rows
    assert len(control["narrow_offsets"]) >= 2
    for row in kernels:
        assert row["narrow_offsets"] == [], row
