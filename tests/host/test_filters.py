"""Allow and block lists: before any import, by namespace or distribution, and no wrong name in silence."""

import sys

import pytest
from fixtures.fake_dists import operators

from curvkit_core import load_registry
from curvkit_core.host.filters import split_names


@pytest.fixture
def three(dists):
    """Three plugins."""
    for namespace in ("hf", "acme", "slow"):
        dists.plugin(namespace, operators(f"{namespace}/x"), dist=f"dist-of-{namespace}")
    return dists


def rows(**arguments):
    """{namespace: (status, reason)} without core."""
    environ = arguments.pop("environ", {})
    return {p.namespace: (p.status, p.reason) for p in load_registry(environ=environ, **arguments).plugins[1:]}


def test_names_are_split_at_commas_and_blanks():
    """Both are common."""
    assert split_names("hf, acme  slow,,") == ("hf", "acme", "slow")


def test_no_filter_lets_all_in(three):
    """Unset is not empty."""
    assert {status for status, _ in rows().values()} == {"ok"}


def test_empty_allow_list_means_core_only(three):
    """`CURVKIT_PLUGINS=""`; nothing of theirs is imported."""
    assert rows(environ={"CURVKIT_PLUGINS": ""}) == dict.fromkeys(
        ("acme", "hf", "slow"), ("blocked", "CURVKIT_PLUGINS")
    )
    assert rows(allow=[], allow_from="--no-plugins")["hf"] == ("blocked", "--no-plugins")
    assert not {"dist_of_hf", "dist_of_acme", "dist_of_slow"} & set(sys.modules)


@pytest.mark.parametrize("name", ["hf", "dist-of-hf", "Dist_Of.HF", "HF"])
def test_allow_list_takes_either_name_however_written(three, name):
    """What the listing shows under NAME and under DIST both work."""
    seen = rows(environ={"CURVKIT_PLUGINS": name})
    assert seen["hf"] == ("ok", "")
    assert seen["acme"] == ("blocked", "not in CURVKIT_PLUGINS")


@pytest.mark.parametrize("name", ["slow", "dist-of-slow"])
def test_block_list_takes_either_name(three, name):
    """And the blocked one is not imported."""
    seen = rows(environ={"CURVKIT_BLOCK_PLUGINS": name})
    assert (seen["slow"], seen["hf"]) == (("blocked", "CURVKIT_BLOCK_PLUGINS"), ("ok", ""))
    assert "dist_of_slow" not in sys.modules


def test_block_beats_allow_in_one_place(three):
    """Named in both: out."""
    assert rows(environ={"CURVKIT_PLUGINS": "hf", "CURVKIT_BLOCK_PLUGINS": "hf"})["hf"][0] == "blocked"
    assert rows(allow=["hf"], block=["hf"])["hf"][0] == "blocked"


def test_arguments_beat_the_environment(three):
    """Each over its own variable; what the caller names is not blocked by the environment."""
    environ = {"CURVKIT_PLUGINS": "acme", "CURVKIT_BLOCK_PLUGINS": "hf"}
    assert rows(environ=environ, allow=["hf"])["hf"] == ("ok", "")
    assert rows(environ=environ, allow=["hf"])["acme"] == ("blocked", "not in allow=")
    assert rows(environ=environ, block=["slow"])["hf"] == ("blocked", "not in CURVKIT_PLUGINS")
    assert rows(environ={"CURVKIT_BLOCK_PLUGINS": "hf"}, block=[])["hf"] == ("ok", "")


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"CURVKIT_PLUGINS": "hff"}, "CURVKIT_PLUGINS names 'hff', which is not installed; did you mean 'hf'?"),
        (
            {"CURVKIT_BLOCK_PLUGINS": "dist-of-slw"},
            "CURVKIT_BLOCK_PLUGINS names 'dist-of-slw', which is not installed; did you mean 'dist-of-slow'?",
        ),
        (
            {"CURVKIT_PLUGINS": "triton"},
            "CURVKIT_PLUGINS names 'triton', which is not installed. mend: pip install \"curvkit-core[triton]\"",
        ),
        ({"CURVKIT_PLUGINS": "zzz"}, "CURVKIT_PLUGINS names 'zzz', which is not installed"),
        ({"CURVKIT_BLOCK_PLUGINS": "core"}, "CURVKIT_BLOCK_PLUGINS names 'core', which cannot be blocked"),
        ({"CURVKIT_BLOCK_PLUGINS": "local"}, "CURVKIT_BLOCK_PLUGINS names 'local', which cannot be blocked"),
    ],
)
def test_name_that_does_nothing_warns(three, environ, text):
    """With the near name, or the command that installs it."""
    assert load_registry(environ=environ).warnings == (text,)


def test_core_in_the_allow_list_is_no_mistake(three):
    """It is let in anyway."""
    assert load_registry(environ={"CURVKIT_PLUGINS": "core,hf"}).warnings == ()


def test_core_stays_when_blocked(three):
    """It cannot be blocked."""
    assert load_registry(environ={"CURVKIT_BLOCK_PLUGINS": "core curvkit-core"}).plugins[0].status == "ok"


@pytest.mark.parametrize("what", ["allow", "block"])
def test_bare_string_is_refused(what):
    """`allow="hf"` would be the letters h and f."""
    with pytest.raises(
        TypeError, match=rf"{what}='hf' is a bare string: expected a list of names. Write {what}=\['hf'\]"
    ):
        load_registry(**{what: "hf"})


def test_two_distributions_with_one_namespace_are_both_out(dists):
    """Both named, each with the way to choose it; neither is imported."""
    for letter in "ab":
        dists.add(f"twice-{letter}", "twice", "raise AssertionError")
    first, second = load_registry().plugins[1:]
    assert (first.status, first.stage) == (second.status, second.stage) == ("broken", "discover")
    assert first.reason == second.reason == "2 distributions provide 'twice': twice-a 1.0 and twice-b 1.0"
    assert first.hint.endswith("CURVKIT_BLOCK_PLUGINS=twice-b")
    assert second.hint.endswith("CURVKIT_BLOCK_PLUGINS=twice-a")


@pytest.mark.parametrize("filters", [{"CURVKIT_BLOCK_PLUGINS": "twice-b"}, {"CURVKIT_PLUGINS": "twice-a"}])
def test_user_chooses_between_two_distributions(dists, filters):
    """By blocking one, or by allowing one."""
    for letter in "ab":
        dists.plugin("twice", operators(f"twice/{letter}"), dist=f"twice-{letter}")
    registry = load_registry(environ=filters)
    assert [p.status for p in registry.plugins[1:]] == ["ok", "blocked"]
    assert "twice/a" in registry.operators
    assert "twice/b" not in registry.operators
