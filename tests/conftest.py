"""Settings of every test: one thread, here and in child processes; Hypothesis draws the same examples in CI.

One thread makes sums repeat, and on networks this small it is no slower than two; where other processes keep the
cores busy, two threads that wait for each other were up to ten times slower.
"""

import os
import sys

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def same_import_path():
    """Hold that a test leaves `sys.path` as it was: one that does not would spoil every import after it."""
    path, before = sys.path, list(sys.path)
    yield
    after = [entry for entry in sys.path if entry in before or not entry.endswith("_vendor")]  # setuptools adds its own
    sys.path = path
    sys.path[:] = before
    # monkeypatch.setattr(sys, "path", ...) followed by monkeypatch.syspath_prepend undoes itself in the wrong order
    assert after == before, "the test left sys.path changed"
