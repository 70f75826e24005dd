"""Each hook's docstring holds a whole plugin, and it runs."""

import inspect
import textwrap

import pytest

from curvkit_core import load_registry
from curvkit_core.host import hookspecs
from curvkit_core.host.kinds import KINDS

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("curvkit_"))
COUNTS = {kind.hook: kind.kind for kind in KINDS}


def code_of(hook):
    """The code block of a hook's docstring."""
    text = inspect.cleandoc(getattr(hookspecs, hook).__doc__)
    block = text.partition(".. code-block:: python\n")[2]
    return textwrap.dedent(block)


def test_hooks_are_those_of_the_contract():
    """Six registrations, two observers, the handshake."""
    assert sorted([*COUNTS, "curvkit_plugin_info", "curvkit_run_finished", "curvkit_run_started"]) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_docstring_is_a_plugin_that_loads(hook, dists):
    """Without an error or a finding; it offers what the hook is for."""
    dists.add("acme-curvature", "acme", code_of(hook))
    registry = load_registry()
    record = registry.plugin("acme")
    assert record is not None, registry.plugins
    assert record.findings == ()
    if hook in COUNTS:
        assert [spec.kind for spec in record.specs] == [COUNTS[hook]]
    elif hook == "curvkit_plugin_info":
        assert record.specs == ()
    else:
        getattr(registry.observers, f"call_{hook.removeprefix('curvkit_')}")("a run")
        assert __import__("acme_curvature").seen == ["a run"]
