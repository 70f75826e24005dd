"""Looking a component up by name: what is there, and an error of its own for each way of not being there."""

import pytest
from fixtures.fake_dists import INFO, operators

from curvkit_core import load_registry
from curvkit_core.errors import AmbiguousComponentError, CurvkitError, UnavailableComponentError, UnknownComponentError

KNOWN = "Known operators: core/block-diagonal, core/empirical-fisher, core/fisher, core/ggn, core/hessian"


def error_of(call, kind=CurvkitError):
    """The text of the error that a call raises, whose type is exactly `kind`."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def test_qualified_and_bare_names(dists):
    """A bare name is core's, even where another plugin has the same stem."""
    dists.plugin("acme", operators("acme/ggn"))
    catalog = load_registry().operators
    assert catalog.get("core/ggn") is catalog.get("ggn")
    assert catalog.get("acme/ggn").name == "acme/ggn"
    core = ("block-diagonal", "empirical-fisher", "fisher", "ggn", "hessian")
    assert catalog.names() == ("acme/ggn", *(f"core/{stem}" for stem in core))
    assert [spec.name for spec in catalog] == list(catalog.names())
    assert len(catalog) == 6


def test_bare_name_never_means_a_plugins(dists):
    """Else a run file would mean something else on another machine."""
    dists.plugin("acme", operators("acme/kfac"))
    text = error_of(lambda: load_registry().operators.get("kfac"), UnknownComponentError)
    assert text == "operator 'kfac' is unknown: core has none of that name. mend: write the namespace: acme/kfac"


def test_bare_name_of_several_is_ambiguous(dists):
    """All candidates, qualified."""
    for namespace in ("foo", "acme"):
        dists.plugin(namespace, operators(f"{namespace}/kfac"))
    text = error_of(lambda: load_registry().operators.get("kfac"), AmbiguousComponentError)
    assert text == "operator 'kfac' is ambiguous: acme/kfac, foo/kfac. mend: write the namespace"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hesian", f"operator 'hesian' is unknown; did you mean 'core/hessian'? {KNOWN}"),
        ("core/hesian", f"operator 'core/hesian' is unknown; did you mean 'core/hessian'? {KNOWN}"),
        ("zzz", f"operator 'zzz' is unknown. {KNOWN}"),
        ("core/eigsh", f"operator 'core/eigsh' is unknown: core/eigsh is an algorithm. {KNOWN}"),
        ("eigsh", f"operator 'eigsh' is unknown: core/eigsh is an algorithm. {KNOWN}"),
        ("nobody/x", f"operator 'nobody/x' is unknown: no plugin provides 'nobody'. {KNOWN}"),
        ("local/x", f"operator 'local/x' is unknown. {KNOWN}"),
        (
            "hf/causal-lm",
            "operator 'hf/causal-lm' is unknown: no plugin provides 'hf'. mend: pip install \"curvkit-core[hf]\"",
        ),
    ],
)
def test_unknown_name(dists, name, text):
    """With the near name, the other kind, or the command that installs it."""
    assert error_of(lambda: load_registry().operators.get(name), UnknownComponentError) == text


def test_unknown_name_in_a_healthy_plugin(dists):
    """The plugin is there; it has none of that name."""
    dists.plugin("acme", operators("acme/kfac"), dist="acme-curvature")
    text = error_of(lambda: load_registry().operators.get("acme/kfc"), UnknownComponentError)
    assert text.startswith(
        "operator 'acme/kfc' is unknown: plugin 'acme' (acme-curvature 1.0) has none of that name; "
        "did you mean 'acme/kfac'? Known operators: acme/kfac, core/"
    )


def test_name_of_a_broken_plugin_says_how_it_broke(dists):
    """Not `unknown`: installed, and failed where."""
    dists.add("curvkit-hf", "hf", "import transformers_absent")
    text = error_of(lambda: load_registry().loss_adapters.get("hf/causal-lm"), UnavailableComponentError)
    assert text == (
        "loss adapter 'hf/causal-lm' is not available.\n"
        "  plugin 'hf' (curvkit-hf 1.0) is installed but failed at import: "
        "ModuleNotFoundError: No module named 'transformers_absent'\n"
        "  mend: see `curvkit doctor hf`. "
        "Known loss adapters: core/bce-with-logits, core/cross-entropy, core/linear-cross-entropy, core/mse"
    )


def test_name_of_a_blocked_plugin_says_by_what(dists):
    """And where to lift it."""
    dists.plugin("hf", dist="curvkit-hf")
    registry = load_registry(environ={"CURVKIT_BLOCK_PLUGINS": "hf"})
    text = error_of(lambda: registry.operators.get("hf/x"), UnavailableComponentError)
    assert (
        "  plugin 'hf' (curvkit-hf 1.0) is installed but blocked (CURVKIT_BLOCK_PLUGINS)\n  mend: lift the block. "
        in text
    )


def test_name_of_an_incompatible_plugin_says_what_to_upgrade(dists):
    """With both versions."""
    dists.plugin("old", operators("old/x"), info=INFO.replace("1.0", "2.0"))
    text = error_of(lambda: load_registry().operators.get("old/x"), UnavailableComponentError)
    assert (
        "is installed but incompatible: needs plugin API 2.0, this curvkit-core speaks 1.0; upgrade curvkit-core"
        in text
    )


def test_name_with_two_claimants_names_both(dists):
    """Neither distribution is hidden."""
    for letter in "ab":
        dists.plugin("twice", operators(f"twice/{letter}"), dist=f"twice-{letter}")
    text = error_of(lambda: load_registry().operators.get("twice/a"), UnavailableComponentError)
    assert "plugin 'twice' (twice-a 1.0) is installed but failed at discover" in text
    assert "plugin 'twice' (twice-b 1.0) is installed but failed at discover" in text


def test_bare_unknown_name_tells_which_plugins_are_broken(dists):
    """It may have been theirs."""
    dists.add("fake-acme", "acme", "raise RuntimeError('no')")
    text = error_of(lambda: load_registry().operators.get("kfac"), UnknownComponentError)
    assert text.splitlines()[1] == "  plugin 'acme' (fake-acme 1.0) is installed but failed at import: RuntimeError: no"


def test_name_that_is_no_string(dists):
    """A spec instead of its name, for one."""
    catalog = load_registry().operators
    with pytest.raises(TypeError, match=r"operator name=OperatorSpec\(.*is of type OperatorSpec: expected a str"):
        catalog.get(catalog.get("ggn"))


def test_find_looks_through_all_kinds(dists):
    """One name may be of several kinds; a bare one is core's."""
    body = "@hookimpl\ndef curvkit_problems(ctx): yield ProblemSpec(name='acme/lm', summary='', factory='a:b')\n"
    dists.plugin("acme", operators("acme/lm") + body)
    registry = load_registry()
    assert [spec.kind for spec in registry.find("acme/lm")] == ["operator", "problem"]
    assert [spec.name for spec in registry.find("eigsh")] == ["core/eigsh"]
    assert registry.find("lm") == ()


def test_catalog_of_an_unknown_kind(dists):
    """The kinds are listed."""
    with pytest.raises(
        CurvkitError, match=r"kind='losses' is unknown: expected one of operator, algorithm, loss adapter"
    ):
        load_registry().catalog("losses")


RESOLVE = """
@hookimpl
def curvkit_operators(ctx):
    for stem, factory in (
        ("good", "acme_parts:build"), ("nested", "acme_parts:Deep.build"), ("typo", "acme_parts:biuld"),
        ("gone", "acme_absent:build"), ("exits", "acme_exits:build"), ("number", "acme_parts:NUMBER"),
    ):
        yield OperatorSpec(name=f"acme/{stem}", summary="", factory=factory)
    yield OperatorSpec(name="acme/config", summary="", factory="acme_parts:build", config="acme_parts:Config")
    yield OperatorSpec(name="acme/plain", summary="", factory="acme_parts:build", config="acme_parts:Deep")
"""
PARTS = """
from attrs import frozen
NUMBER = 3
def build(problem): return problem
class Deep:
    build = build
@frozen
class Config:
    k: int = 1
"""


@pytest.fixture
def parts(dists):
    """A registry whose plugin names good and bad factories."""
    dists.plugin("acme", RESOLVE)
    (dists.folder / "acme_parts.py").write_text(PARTS)
    (dists.folder / "acme_exits.py").write_text("raise SystemExit(4)")
    dists.modules += ["acme_parts", "acme_exits"]
    return load_registry()


def test_factory_and_config_are_imported_on_first_use(parts):
    """By dotted attribute, too; no config is None."""
    import sys

    assert "acme_parts" not in sys.modules
    assert parts.load_factory(parts.operators.get("acme/good"))("p") == "p"
    assert parts.load_factory(parts.operators.get("acme/nested"))("p") == "p"
    assert parts.load_config(parts.operators.get("acme/good")) is None
    assert parts.load_config(parts.operators.get("acme/config")).__name__ == "Config"


@pytest.mark.parametrize(
    ("stem", "call", "text"),
    [
        ("typo", "load_factory", "operator 'acme/typo': its factory 'acme_parts:biuld': acme_parts was imported, "
                                 "it has no attribute 'biuld'; did you mean 'build'?"),
        ("gone", "load_factory", "operator 'acme/gone': its factory 'acme_absent:build' failed at import: "
                                 "ModuleNotFoundError: No module named 'acme_absent'"),
        ("exits", "load_factory", "operator 'acme/exits': its factory 'acme_exits:build' failed at import: SystemExit"),
        ("number", "load_factory", "operator 'acme/number': its factory 'acme_parts:NUMBER' is a int, not callable"),
        ("plain", "load_config", "operator 'acme/plain': its config is <class 'acme_parts.Deep'>, expected a frozen a"),
    ],
)  # fmt: skip
def test_string_that_resolves_to_nothing_names_the_component(parts, stem, call, text):
    """What was imported, what was missing, what is near."""
    spec = parts.operators.get(f"acme/{stem}")
    assert error_of(lambda: getattr(parts, call)(spec), UnavailableComponentError).startswith(text)


def test_algorithm_is_its_own_config():
    """The class is both."""
    registry = load_registry(allow=[], environ={})
    spec = registry.algorithms.get("core/trace")
    assert registry.load_config(spec) is registry.load_factory(spec)
