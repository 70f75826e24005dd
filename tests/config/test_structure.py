"""Strict conversion: exact values pass, everything else is refused with its path, and all at once."""

from __future__ import annotations

import contextlib
import datetime
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from attrs import Factory, define, field, frozen, validators
from hypothesis import given
from hypothesis import strategies as st

from curvkit_core.config import ConfigError, make_converter, structure


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@frozen(kw_only=True)
class Inner:
    x: int
    y: float = 1.0


@frozen(kw_only=True)
class Options:
    k: int = field(default=6, validator=validators.ge(1))
    tol: float = field(default=1e-4, validator=validators.gt(0.0))
    reorth: bool = True
    seed: int | None = None
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.k > 100:
            msg = f"k={self.k} is out of range: expected at most 100."
            raise ValueError(msg)


def mistakes(cls: Any, data: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        structure(cls, data, **options)
    return {mistake.path: mistake.text for mistake in caught.value.mistakes}


@pytest.mark.parametrize(
    ("tp", "value", "expected"),
    [
        (int, 5, 5),
        (bool, False, False),
        (str, "5", "5"),
        (float, 0.5, 0.5),
        (float, 2, 2.0),
        (Any, {"a": [1]}, {"a": [1]}),
        (Path, "a/b", Path("a/b")),
        (Literal["LA", 3], 3, 3),
        (Colour, "blue", Colour.BLUE),
        (Level, 1, Level.LOW),
        (Annotated[int, "positive"], 4, 4),
        (int | None, None, None),
        (float | int, 5, 5),
        (int | str, "a", "a"),
        (list[int] | int, [1], [1]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, float], [1, 2], (1, 2.0)),
        (list[tuple[str, ...]], [["a"], []], [("a",), ()]),
        (frozenset[str], ["a", "b"], frozenset({"a", "b"})),
        (Sequence[int], [1], (1,)),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (datetime.date, datetime.date(2020, 1, 2), datetime.date(2020, 1, 2)),
        (Inner, {"x": 1}, Inner(x=1)),
    ],
)
def test_value_of_its_type_passes(tp: Any, value: Any, expected: Any) -> None:
    """The value, its type and the types of its items are those asked for."""
    got = structure(tp, value)
    assert got == expected
    assert type(got) is type(expected)
    if isinstance(expected, (tuple, list)):
        assert [type(item) for item in got] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("tp", "value", "text"),
    [
        (int, 5.9, "expected int, got float 5.9"),
        (int, 5.0, "expected int, got float 5.0"),
        (int, True, "expected int, got bool True"),
        (int, "5", "expected int, got str '5'"),
        (bool, "false", "expected bool, got str 'false'"),
        (bool, 1, "expected bool, got int 1"),
        (str, 5, "expected str, got int 5"),
        (float, "nan", "expected float, got str 'nan'"),
        (float, True, "expected float, got bool True"),
        (float, float("nan"), "expected a finite float, got float nan"),
        (float, float("-inf"), "expected a finite float, got float -inf"),
        (float, 10**400, "expected a finite float, got int 1000"),
        (float, 2**53 + 1, "which no float holds exactly"),
        (Path, 3, "expected str (a path), got int 3"),
        (Path, "", "expected str (a path), got str ''"),
        (Path | None, 3, "expected str (a path), got int 3"),
        (Literal["LA", "SA"], "XX", """expected "LA" or "SA", got str 'XX'"""),
        (Literal[1], True, "expected 1, got bool True"),
        (Colour, "green", """expected "red" or "blue", got str 'green'"""),
        (Level, True, "expected 1, got bool True"),
        (tuple[str, ...], "abc", "expected list of str, got str 'abc'"),
        (list[int], {"a": 1}, "expected list of int, got table with keys 'a'"),
        (tuple[int, float], [1], "expected list [int, float], 2 items, got list [1]"),
        (dict[str, int], [1], "expected table of int, got list [1]"),
        (int | str, 5.5, "expected int or str, got float 5.5"),
        (Inner, 3, "expected a table, got int 3"),
        (int, None, "expected int, got nothing"),
        (int, datetime.date(2020, 1, 2), "expected int, got date 2020-01-02"),
        (bytes, "a", "expected bytes, which a run file cannot give, got str 'a'"),
    ],
)
def test_value_of_another_type_is_refused(tp: Any, value: Any, text: str) -> None:
    """cattrs' own conversions (5.9 to 5, "false" to True, "abc" to a list) are refusals here."""
    (got,) = mistakes(tp, value, path="$.x").values()
    assert text in got


def test_all_mistakes_come_at_once_with_their_paths() -> None:
    """The error that a reader sees has every line, aligned, with the source first."""
    data = {"k": 5.9, "reorth": "false", "kk": 3, "inners": [{"x": 1}, {"y": "z"}], "tol": -1.0}
    with pytest.raises(ConfigError) as caught:
        structure(Options, data, "$.algorithm[0]", source="run.toml")
    assert (
        str(caught.value)
        == """\
run.toml: 6 errors
  $.algorithm[0]              unknown key 'kk'; did you mean 'k'?
  $.algorithm[0].k            expected int, got float 5.9
  $.algorithm[0].reorth       expected bool, got str 'false'
  $.algorithm[0].inners[1].x  missing: expected int
  $.algorithm[0].inners[1].y  expected float, got str 'z'
  $.algorithm[0].tol          'tol' must be > 0.0: -1.0"""
    )


def test_validators_keep_their_words_at_their_field() -> None:
    """attrs' validators stop at the first; here each speaks, at its own path."""
    assert mistakes(Options, {"k": 0, "tol": 0}) == {
        "$.k": "'k' must be >= 1: 0",
        "$.tol": "'tol' must be > 0.0: 0.0",
    }


def test_choice_validator_keeps_its_words() -> None:
    """attrs' in_ has four arguments, of which the first is for people."""

    @frozen
    class Choice:
        which: str = field(default="LA", validator=validators.in_(("LA", "SA")))

    assert mistakes(Choice, {"which": "XX"}) == {"$.which": "'which' must be in ('LA', 'SA') (got 'XX')"}


def test_error_of_the_whole_class_stands_at_the_class() -> None:
    """What __attrs_post_init__ refuses belongs to no single field."""
    assert mistakes(Options, {"k": 101}) == {"$": "k=101 is out of range: expected at most 100."}


def test_unknown_key_lists_what_is_known() -> None:
    """With nothing near, the known keys are listed, those taken out before included."""
    assert mistakes(Inner, {"x": 1, "zzz": 2}, extra_keys=("kind",)) == {"$": "unknown key 'zzz'; known: kind, x, y"}


def test_key_of_an_alias_and_a_converter() -> None:
    """A private field is given without its underscore; its converter runs after the types are checked."""

    @define
    class Private:
        _size: int = field(converter=lambda value: 2 * value, validator=validators.lt(10))

    assert structure(Private, {"size": 3}) == Private(size=3)
    assert mistakes(Private, {"size": 7}) == {"$.size": "'_size' must be < 10: 14"}
    assert mistakes(Private, {"size": "7"}) == {"$.size": "expected int, got str '7'"}


def test_instance_passes_and_defaults_are_made_anew() -> None:
    """Factories give each instance its own value."""

    @define
    class Holder:
        items: list[int] = Factory(list)
        inner: Inner = Factory(lambda: Inner(x=1))

    inner = Inner(x=5)
    assert structure(Holder, {"inner": inner}).inner is inner
    assert structure(Holder, {}).items is not structure(Holder, {}).items


def test_later_hook_beats_the_strict_ones() -> None:
    """A plugin's own hook for its own class is asked first, inside lists and unions too, and its words are kept."""

    class Point:
        def __init__(self, text: str) -> None:
            self.text = text

    def hook(value: Any, _: Any) -> Point:
        if value != "here":
            msg = f"expected 'here', got {value!r}"
            raise KeyError(msg) if value == "key" else RuntimeError(msg)
        return Point(value)

    converter = make_converter()
    converter.register_structure_hook(Point, hook)
    assert structure(list[Point], ["here"], converter=converter)[0].text == "here"
    assert mistakes(list[Point], ["here", "there"], converter=converter) == {"$[1]": "expected 'here', got 'there'"}
    assert mistakes(Point | None, "there", converter=converter) == {"$": "expected 'here', got 'there'"}
    assert mistakes(list[int], [1.5], converter=converter) == {"$[0]": "expected int, got float 1.5"}


def test_cattrs_own_hooks_of_a_strategy_see_the_strict_ones() -> None:
    """Strict hooks registered after cattrs' tagged union have no effect; ours are there before it."""
    from cattrs.strategies import configure_tagged_union

    converter = make_converter()
    configure_tagged_union(Inner | Options, converter, tag_name="kind")
    got = mistakes(Inner | Options, {"kind": "Inner", "x": 5.9}, converter=converter)
    assert got == {"$.x": "expected int, got float 5.9"}


def test_class_whose_types_cannot_be_read_is_named() -> None:
    """A config class inside a function, with types only the function knows: the plugin's author is told."""

    class Hidden:
        pass

    @frozen
    class Broken:
        x: Hidden | None = None  # a string here, and Hidden is no global

    with pytest.raises(ConfigError, match=r"the types of .*Broken cannot be read: name 'Hidden'"):
        structure(Broken, {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_any_value_passes_or_is_a_config_error(value: Any) -> None:
    """No input breaks out as another exception, and a value that passes is exactly of its type."""
    for tp in (int, float, bool, str, tuple[int, ...], dict[str, float], Options, int | None):
        with contextlib.suppress(ConfigError):
            got = structure(tp, value)
            assert tp not in (int, bool, str) or type(got) is tp


def test_error_survives_pickling_between_processes() -> None:
    """Ranks hand errors to one another: the copy says the same."""
    import pickle

    with pytest.raises(ConfigError) as caught:
        structure(Options, {"k": "a"}, source="f.toml")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.mistakes) == (str(caught.value), caught.value.mistakes)
