"""The registry as a whole: loading once, strict mode, local components, the fingerprint, observers."""

import os
import sys
import threading

import pytest
from fixtures.fake_dists import INFO, operators

from curvkit_core import KernelSpec, OperatorSpec, Registry, default_registry, load_registry
from curvkit_core.errors import PluginError, RegistryError
from curvkit_core.host import configure_default


def test_default_registry_is_loaded_once(dists):
    """The same object, whoever asks."""
    assert default_registry() is default_registry()
    assert isinstance(default_registry(), Registry)
    assert load_registry() is not default_registry()


def test_threads_wait_for_one_load(dists):
    """Sixteen at once: one import."""
    dists.plugin(
        "acme", "import time; time.sleep(0.05)\nimport counter; counter.loads.append(1)\n" + operators("acme/x")
    )
    (dists.folder / "counter.py").write_text("loads = []")
    dists.modules.append("counter")
    seen, barrier = [], threading.Barrier(16)

    def ask():
        barrier.wait()
        seen.append(default_registry())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(registry) for registry in seen}) == 1
    assert len(seen) == 16
    assert __import__("counter").loads == [1]


def test_plugin_that_asks_for_the_registry_while_loading_is_broken(dists):
    """Its components are not known yet; no endless recursion."""
    dists.add("fake-acme", "acme", "from curvkit_core import default_registry\ndefault_registry()")
    (record,) = default_registry().plugins[1:]
    assert record.reason.startswith("RegistryError: default_registry() was called while plugins are loading")


def test_failed_default_load_may_be_tried_again(dists, monkeypatch):
    """An error in strict mode leaves no half-made registry."""
    dists.add("fake-acme", "acme", "raise ValueError('first')")
    monkeypatch.setenv("CURVKIT_STRICT_PLUGINS", "1")
    with pytest.raises(ValueError, match="first"):
        default_registry()
    monkeypatch.delenv("CURVKIT_STRICT_PLUGINS")
    assert default_registry().plugins[1].status == "broken"


def test_warnings_of_the_default_registry_are_shown(dists, monkeypatch):
    """As Python warnings, or wherever the command line wants them."""
    monkeypatch.setenv("CURVKIT_PLUGINS", "absent")
    with pytest.warns(UserWarning, match="CURVKIT_PLUGINS names 'absent', which is not installed"):
        default_registry()
    texts = []
    configure_default(warn=texts.append, block=["core"], block_from="--block-plugins")
    default_registry()
    assert texts[1:] == ["--block-plugins names 'core', which cannot be blocked"]


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_strict_mode_raises_the_plugins_own_error(dists, value):
    """With a note that says whose it is."""
    dists.add("fake-acme", "acme", "raise ValueError('boom')")
    with pytest.raises(ValueError, match="boom") as caught:
        load_registry(environ={"CURVKIT_STRICT_PLUGINS": value})
    assert caught.value.__notes__ == ["curvkit: plugin 'acme' (fake-acme 1.0) failed at import"]


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_strict_mode_is_off(dists, value):
    """Also when the variable says so."""
    dists.add("fake-acme", "acme", "raise ValueError('boom')")
    assert load_registry(environ={"CURVKIT_STRICT_PLUGINS": value}).plugins[1].status == "broken"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import sys; sys.exit(3)", r"plugin 'acme' \(fake-acme 1.0\) failed at import: SystemExit: 3\n  mend: "),
        (None, ""),
    ],
)
def test_strict_mode_turns_an_exit_into_an_error(dists, source, text):
    """SystemExit would end the program without a word; a refusal of the host's has no exception of its own."""
    if source is None:
        dists.plugin("acme", operators("acme/X", "acme/Y"))
        text = r"failed at validate: the name 'acme/X' is malformed.*; the name 'acme/Y' is malformed"
    else:
        dists.add("fake-acme", "acme", source)
    with pytest.raises(PluginError, match=text):
        load_registry(environ={"CURVKIT_STRICT_PLUGINS": "1"})


def test_strict_mode_leaves_blocked_plugins_alone(dists):
    """Blocking is the user's wish."""
    dists.add("fake-acme", "acme", "raise ValueError('boom')")
    registry = load_registry(environ={"CURVKIT_STRICT_PLUGINS": "1", "CURVKIT_BLOCK_PLUGINS": "acme"})
    assert registry.plugins[1].status == "blocked"


def local(**fields):
    """A component of a notebook."""
    return OperatorSpec(**{"name": "local/mine", "summary": "mine", "factory": lambda problem: problem, **fields})


def test_local_component_with_a_callable(dists):
    """Looked up like any; a second registration replaces it, as when a cell is run again."""
    registry = load_registry()
    spec = registry.register_local(local())
    assert registry.operators.get("local/mine") is spec
    assert registry.load_factory(spec)(3) == 3
    again = registry.register_local(local(factory=lambda problem: -problem))
    assert registry.load_factory(registry.operators.get("local/mine"))(3) == -3
    assert registry.operators.get("local/mine") is again
    assert "local/mine" not in load_registry().operators
    assert list(registry.operators.names()) == sorted(registry.operators.names())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            local(name="core/mine"),
            r"register_local: the name 'core/mine' is in the namespace 'core', which is reserved",
        ),
        (local(name="acme/mine"), r"expected local/\.\.\."),
        (local(name="mine"), r"the name 'mine' is malformed: expected local/NAME"),
        (local(factory="a.b"), r"local/mine: factory='a.b' is malformed"),
        ("local/mine", r"register_local takes a spec such as OperatorSpec, got an item of type str"),
    ],
)
def test_local_component_is_checked(dists, spec, text):
    """The namespace is enforced."""
    with pytest.raises(RegistryError, match=text):
        load_registry().register_local(spec)


def test_local_kernel_takes_part_in_auto(dists):
    """By its priority."""
    registry = load_registry()
    registry.register_local(KernelSpec(name="local/fast", summary="", factory=print, op="ce_hvp", priority=9))
    assert registry.kernels.auto().spec.name == "local/fast"


def test_fingerprint_tells_ranks_apart(dists):
    """Equal environments agree; another version, another component, a blocked or a broken plugin do not."""
    dists.plugin("acme", operators("acme/x"), dist="acme-dist", version="1.0")
    base = load_registry().fingerprint()
    assert load_registry().fingerprint() == base
    seen = {base, load_registry(block=["acme"]).fingerprint()}
    extra = load_registry()
    extra.register_local(local())
    seen.add(extra.fingerprint())
    (dists.folder / "acme_dist-1.0.dist-info" / "METADATA").write_text("Name: acme-dist\nVersion: 1.1\n")
    seen.add(load_registry().fingerprint())
    assert len(seen) == 4


def test_registry_does_not_depend_on_the_order_of_the_path(dists, monkeypatch):
    """The same plugins found in another order are the same registry."""
    names = ("b", "a", "c")
    for name in names:
        dists.plugin(name, operators(f"{name}/x", f"{name}/a"))
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listdir(folder)))
    first = load_registry()
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listdir(folder), reverse=True))
    second = load_registry()
    assert [p.namespace for p in first.plugins] == [p.namespace for p in second.plugins] == ["core", "a", "b", "c"]
    assert first.operators.names() == second.operators.names()
    assert first.fingerprint() == second.fingerprint()


WATCH = """
seen = []
@hookimpl
def curvkit_run_started(run): {start}
@hookimpl
def curvkit_run_finished(run): seen.append(("finished", run))
"""


def test_observers_are_told_and_their_errors_logged(dists, caplog):
    """One that raises, or exits, changes nothing for the next."""
    dists.plugin("a", WATCH.format(start="raise RuntimeError('in an observer')"))
    dists.plugin("b", WATCH.format(start="raise SystemExit(1)"))
    dists.plugin("c", WATCH.format(start="seen.append(('started', run))"))
    registry = load_registry()
    assert [p.observes for p in registry.plugins] == [False, True, True, True]
    registry.observers.call_run_started("run 1")
    registry.observers.call_run_finished("run 1")
    assert sys.modules["fake_c"].seen == [("started", "run 1"), ("finished", "run 1")]
    assert sys.modules["fake_a"].seen == [("finished", "run 1")]
    assert [r.getMessage() for r in caplog.records] == [
        "plugin 'a' (fake-a 1.0) failed in curvkit_run_started",
        "plugin 'b' (fake-b 1.0) failed in curvkit_run_started",
    ]
    assert "RuntimeError: in an observer" in caplog.text


def test_observer_of_a_plugin_that_is_out_is_not_told(dists):
    """Whole or not at all."""
    dists.plugin("a", WATCH.format(start="seen.append(1)") + operators("wrong/x"))
    registry = load_registry()
    registry.observers.call_run_started("run")
    assert registry.plugins[1].status == "broken"
    assert sys.modules["fake_a"].seen == []


def test_core_is_first_and_needs_no_metadata(dists):
    """Registered directly: no distribution of core is on the path here."""
    dists.plugin("aaa", info=INFO)
    core, aaa = load_registry().plugins
    assert (core.namespace, core.status, core.stage, aaa.namespace) == ("core", "ok", "commit", "aaa")
    assert 0 < core.import_ms < 1000
