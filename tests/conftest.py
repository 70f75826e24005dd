"""Settings of every test: one thread, here and in child processes; Hypothesis draws the same examples in CI.

One thread makes sums repeat, and on networks this small it is no slower than two; where other processes keep the
cores busy, two threads that wait for each other were up to ten times slower.
"""

import importlib.util
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

# `nox -s lightning` installs it and runs these; it is too large for the other sessions.
collect_ignore = [] if importlib.util.find_spec("lightning") else ["with_lightning"]


def _added_by_imports() -> set[str]:
    """What setuptools adds when it is imported, and torch 2.6 with a part of torch.distributed: no test's doing."""
    torchs = sys.modules.get("torch.distributed.nn.jit.instantiator")
    added = {entry for entry in sys.path if entry.endswith("_vendor")}
    return added | {str(getattr(torchs, "INSTANTIATED_TEMPLATE_DIR_PATH", ""))}


@pytest.fixture(autouse=True)
def same_import_path():
    """Hold that a test leaves `sys.path` as it was: one that does not would spoil every import after it."""
    path, before = sys.path, list(sys.path)
    yield
    after = [entry for entry in sys.path if entry in before or entry not in _added_by_imports()]
    sys.path = path
    sys.path[:] = before
    # monkeypatch.setattr(sys, "path", ...) followed by monkeypatch.syspath_prepend undoes itself in the wrong order
    assert after == before, "the test left sys.path changed"
