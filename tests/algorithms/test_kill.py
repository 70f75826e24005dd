"""kill -9 at twenty random moments: what is left is whole, and going on from it gives the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("killed_run.py")


def test_twenty_killed_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    """All twenty equal the whole run; most were killed in the middle of it, after different numbers of products."""
    command = [sys.executable, str(PROGRAM), str(tmp_path), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] == 20
    assert found["middle"] >= 8, found
    assert len(set(found["saved"])) >= 5, found
