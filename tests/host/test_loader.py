"""One plugin at a time: every way to fail is a record with its stage, and the next plugin loads."""

import sys

import pytest
from fixtures.fake_dists import INFO, operators, plugin_source

from curvkit_core import load_registry


@pytest.fixture
def load(dists):
    """Load one plugin `acme` of a given source, beside a healthy `zz`, and return its record."""

    def load_source(source):
        dists.add("acme-dist", "acme", source)
        dists.plugin("zz", operators("zz/x"))
        registry = load_registry()
        core, record, healthy = registry.plugins
        assert (core.status, healthy.status) == ("ok", "ok")
        assert "zz/x" in registry.operators
        assert "core/hessian" in registry.operators
        assert (record.status == "ok") == bool([n for n in registry.operators.names() if n.startswith("acme/")])
        return record

    return load_source


HOOK = "@hookimpl\ndef curvkit_operators(ctx):\n"
SPEC = "OperatorSpec(name='acme/x', summary='', factory='a:b')"


@pytest.mark.parametrize(
    ("source", "stage", "reason"),
    [
        ("import absent_thing", "import", "ModuleNotFoundError: No module named 'absent_thing'"),
        ("import sys; sys.exit(3)", "import", "SystemExit: 3"),
        ("def f(:", "import", "SyntaxError: "),
        ("raise ValueError('one\\ntwo')", "import", "ValueError: one"),
        ("class E(Exception):\n def __str__(self): raise OSError\nraise E", "import", "E: (its text cannot be shown:"),
        ("raise Exception", "import", "Exception"),
        ("", "handshake", "no curvkit_plugin_info (0 answers, expected 1)"),
        ("def curvkit_plugin_info(): pass", "handshake", "no curvkit_plugin_info (it is not marked @hookimpl)"),
        (plugin_source(info=INFO.replace("return", "")), "handshake", "no curvkit_plugin_info (0 answers, expected 1)"),
        (plugin_source(info=INFO.replace("PluginInfo(api", "dict(api")), "handshake", "curvkit_plugin_info returned a"),
        (plugin_source(info=INFO.replace('"1.0"', '"1"')), "handshake", "the plugin API '1' is malformed: expected MA"),
        (plugin_source(info=INFO.replace('"1.0"', '"1.x"')), "handshake", "the plugin API '1.x' is malformed"),
        (plugin_source(info=INFO.replace('"1.0"', "1.0")), "handshake", "TypeError: PluginInfo.api=1.0 is a float"),
        (plugin_source(info=INFO.replace("info()", "info(ctx)")), "handshake", "HookCallError: "),
        (plugin_source(HOOK.replace("(ctx)", "(ctx, more)") + "    return []"), "register", "PluginValidationError: "),
        (plugin_source(HOOK.replace("operators", "operatrs") + "    return []"), "register",
         "unknown hook 'curvkit_operatrs'; did you mean 'curvkit_operators'?"),
        (plugin_source("@hookimpl\ndef setup(): pass"), "register", "unknown hook 'setup'"),
        (plugin_source(HOOK + "    raise KeyError('k')"), "register", "KeyError: 'k'"),
        (plugin_source(HOOK + "    raise SystemExit"), "register", "SystemExit"),
        (plugin_source(HOOK + f"    yield {SPEC}\n    raise RuntimeError('half')"), "register", "RuntimeError: half"),
        (plugin_source(HOOK + f"    yield {SPEC}\n    raise SystemExit(2)"), "register", "SystemExit: 2"),
        (plugin_source(HOOK + f"    return {SPEC}"), "register",
         "curvkit_operators returned an item of type OperatorSpec, expected an iterable of OperatorSpec"),
        (plugin_source(HOOK + "    return 'acme/x'"), "register", "curvkit_operators returned an item of type str"),
        (plugin_source(HOOK + f"    return [{SPEC.replace(')', ', tags=chr(42))')}]"), "register", "TypeError: tags='"),
        (plugin_source(HOOK + "    return ['acme/x']"), "validate", "curvkit_operators gave the str 'acme/x', expecte"),
        (plugin_source(HOOK + f"    return [{SPEC.replace('Operator', 'Problem')}]"), "validate",
         "curvkit_operators gave an item of type ProblemSpec, expected OperatorSpec"),
        (plugin_source(operators("other/x")), "validate", "the name 'other/x' is in the namespace 'other'; expected a"),
        (plugin_source(operators("core/hessian")), "validate", "the name 'core/hessian' is in the namespace 'core', w"),
        (plugin_source(operators("local/x")), "validate", "the name 'local/x' is in the namespace 'local', which is r"),
        (plugin_source(operators("acme/X")), "validate", "the name 'acme/X' is malformed: expected acme/NAME, both of"),
        (plugin_source(operators("kfac")), "validate", "the name 'kfac' is malformed"),
        (plugin_source(operators("acme/a/b")), "validate", "the name 'acme/a/b' is malformed"),
        (plugin_source(operators("acme/x", "acme/x")), "validate", "the operator acme/x is given twice"),
        (plugin_source(HOOK + f"    yield {SPEC.replace(chr(39) * 2, repr('s' * 81))}"), "validate",
         "acme/x: its summary has 81 characters in 1 line(s), expected one line of at most 80"),
        (plugin_source(HOOK + f"    yield {SPEC.replace(chr(39) + 'a:b' + chr(39), 'print')}"), "validate",
         "acme/x: factory is a callable, allowed under local/ only; expected 'pkg.module:attr'"),
        (plugin_source(HOOK + f"    yield {SPEC.replace('a:b', 'a.b')}"), "validate", "acme/x: factory='a.b' is malfo"),
        (plugin_source(operators("acme/x", probe="a.b")), "validate", "acme/x: probe='a.b' is malformed, expected 'pk"),
        (plugin_source(operators("acme/x", config="./a.py:C")), "validate", "acme/x: config='./a.py:C' is malformed"),
        (plugin_source(HOOK + f"    yield {SPEC.replace(')', ', probe=print)')}"), "validate", "acme/x: probe is a ca"),
    ],
)  # fmt: skip
def test_failure_is_a_record_with_stage_and_reason(load, source, stage, reason):
    """Nothing of the plugin stays, whatever it had given before."""
    record = load(source)
    assert (record.status, record.stage) == ("broken", stage)
    assert record.reason.startswith(reason), record.reason
    assert "\n" not in record.reason
    assert record.specs == ()
    assert "CURVKIT_BLOCK_PLUGINS=acme" in record.hint or stage == "handshake"


@pytest.mark.parametrize(
    ("api", "reason"),
    [
        ("2.0", "needs plugin API 2.0, this curvkit-core speaks 1.0; upgrade curvkit-core"),
        ("1.1", "needs plugin API 1.1, this curvkit-core speaks 1.0; upgrade curvkit-core"),
        ("0.9", "needs plugin API 0.9, this curvkit-core speaks 1.0; upgrade acme-dist"),
    ],
)
def test_handshake_says_which_side_to_upgrade(load, api, reason):
    """Before the other hooks are looked at: theirs may have another shape."""
    record = load(
        plugin_source(HOOK.replace("ctx", "new, shape") + "    raise AssertionError", info=INFO.replace("1.0", api))
    )
    assert (record.status, record.stage, record.reason, record.api) == ("incompatible", "handshake", reason, api)


def test_all_errors_of_a_plugin_are_told(load):
    """The row has the first and their number, the details have each."""
    record = load(plugin_source(operators("acme/X", "other/y", "acme/z")))
    assert record.reason == "the name 'acme/X' is malformed: expected acme/NAME, both of [a-z0-9-] (and 1 more)"
    assert [text[:18] for text in record.details] == ["the name 'acme/X' ", "the name 'other/y'"]


def test_keyboard_interrupt_passes_through(dists):
    """Ctrl-C is the user's, not the plugin's failure."""
    dists.add("acme-dist", "acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_registry()


def test_missing_module_of_its_own_says_reinstall(load):
    """An entry point whose module is gone is not a lack of dependencies."""
    record = load(None)
    assert record.reason == "ModuleNotFoundError: No module named 'acme_dist'"
    assert record.hint == "reinstall acme-dist 1.0, its own module is missing, or block it: CURVKIT_BLOCK_PLUGINS=acme"


def test_missing_dependency_says_install(load):
    """Named with its distribution and version."""
    assert load("import absent_thing").hint == (
        "install what acme-dist 1.0 needs, or block it: CURVKIT_BLOCK_PLUGINS=acme"
    )


def test_optional_unknown_hook_is_allowed(load):
    """For hooks of a later minor, marked so by the plugin."""
    hook = "@hookimpl(optionalhook=True)\ndef curvkit_of_tomorrow(): pass\n"
    assert load(plugin_source(operators("acme/x") + hook)).status == "ok"


def test_forgotten_marker_is_a_finding(load):
    """pluggy passes an unmarked function by in silence."""
    record = load(plugin_source(operators("acme/x") + "def curvkit_kernels(ctx): return []\n"))
    assert record.status == "ok"
    assert [(f.stage, f.code, f.text) for f in record.findings] == [
        ("register", "no-hookimpl", "curvkit_kernels is not marked @hookimpl and is ignored")
    ]


def test_unknown_tag_is_a_finding_and_own_tags_are_not(load):
    """With the near word; a plugin's own tags carry its namespace."""
    record = load(plugin_source(operators("acme/x", tags=["symetric", "acme/whatever", "psd"])))
    assert [(f.code, f.text) for f in record.findings] == [
        ("unknown-tag", "acme/x has the unknown tag 'symetric'; did you mean 'symmetric'?")
    ]


@pytest.mark.parametrize("fails", ["", "\nraise RuntimeError"])
def test_heavy_import_at_load_is_a_finding(load, dists, monkeypatch, fails):
    """Seen in `sys.modules` before and after; told of a plugin that then fails, too. The outermost comes first."""
    for name in ("transformers", "triton"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (dists.folder / "transformers.py").write_text("import triton")
    (dists.folder / "triton.py").write_text("")
    dists.modules += ["transformers", "triton"]
    record = load(plugin_source("import transformers\n" + operators("acme/x") + fails))
    assert record.status == ("broken" if fails else "ok")
    (finding,) = record.findings
    assert (finding.stage, finding.code) == ("import", "heavy-import")
    assert finding.text.startswith("loads transformers, triton at start, ")
    assert finding.mend == "move it behind the factory string (author: acme-dist 1.0)"


def test_import_time_is_recorded(load):
    """In milliseconds, of the module's import alone."""
    record = load(plugin_source("import time; time.sleep(0.02)\n" + operators("acme/x")))
    assert 20 <= record.import_ms < 2000


def test_context_is_one_growing_object(load):
    """A hook may take it or leave it."""
    body = (
        "@hookimpl\ndef curvkit_operators(ctx):\n"
        "    assert (ctx.namespace, ctx.api) == ('acme', '1.0') and ctx.core_version\n"
        f"    return [{SPEC}]\n@hookimpl\ndef curvkit_kernels():\n    return []\n"
    )
    assert load(plugin_source(body)).status == "ok"


def test_entry_point_may_name_an_object(dists):
    """`module:attr`: a class's instance, whose methods are the hooks."""
    source = plugin_source(
        "class Plugin:\n"
        "    @hookimpl\n    def curvkit_plugin_info(self): return PluginInfo(api='1.0')\n"
        f"    @hookimpl\n    def curvkit_operators(self, ctx): yield {SPEC}\nplugin = Plugin()\n",
        info="",
    )
    dists.add("acme-dist", "acme", source, value="acme_dist:plugin")
    assert "acme/x" in load_registry().operators


def test_lazy_module_is_not_woken(load):
    """A PEP 562 module's __getattr__ is not called for names it merely lists."""
    body = (
        operators("acme/x")
        + "def __getattr__(name): raise AssertionError(name)\ndef __dir__(): return [*globals(), 'lazy']\n"
    )
    assert load(plugin_source(body)).status == "ok"


def test_two_loads_are_the_same(dists):
    """A module that is imported already is loaded again, with equal outcome."""
    dists.plugin("acme", operators("acme/x"))
    assert load_registry().plugins[1].specs == load_registry().plugins[1].specs
