"""Ranks for the tests: processes on this machine that talk through gloo, started once for many checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
CASES = Path(__file__).parents[3] / "tests"


def run_ranks(program: str, size: int, folder: Path, *arguments: str, timeout: float = 240.0) -> dict:
    """Start the ranks, wait for them, and give their exit codes and times."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    kept |= {"PYTHONPATH": os.pathsep.join([str(PROGRAMS), str(CASES)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(PROGRAMS / "start_ranks.py"), program, str(size), str(folder)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=kept, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def ranks() -> Callable[..., dict]:
    """``ranks(program, size, folder, *arguments)``."""
    return run_ranks


@pytest.fixture(scope="session", params=[2, 4])
def size(request: pytest.FixtureRequest) -> int:
    """How many ranks."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def programs_importable():
    """The programs' problems can be imported by the tests that compare with one process."""
    sys.path[:0] = [str(PROGRAMS)]
    yield
    sys.path.remove(str(PROGRAMS))
