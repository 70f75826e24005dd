"""Plain values as TOML: tomllib reads back what was written."""

from __future__ import annotations

import enum
import tomllib
from pathlib import Path

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from curvkit_core.config import plain, to_toml, toml_value

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(text, values, max_size=4))
def test_tomllib_reads_back_what_was_written(data: dict[str, object]) -> None:
    """tomllib.loads(to_toml(x)) == x, whatever the keys and strings hold."""
    assert tomllib.loads(to_toml(data)) == data


def test_none_is_left_out_and_has_no_value() -> None:
    """TOML has no None."""
    assert to_toml({"a": None, "b": 1}) == "b = 1\n"
    with pytest.raises(TypeError, match="TOML has no nothing"):
        toml_value(None)


def test_plain_values_of_a_configuration() -> None:
    """Records hold what JSON has: enums by value, paths as strings, tuples as lists, no inf."""

    class Name(enum.StrEnum):
        A = "a"

    @frozen
    class Inner:
        path: Path = Path("x/y")

    @frozen
    class Options:
        inner: Inner = Inner()
        names: tuple[Name, ...] = (Name.A,)
        tags: frozenset[str] = frozenset({"b", "a"})
        limit: float = float("inf")

    got = plain(Options())
    assert got == {"inner": {"path": "x/y"}, "names": ["a"], "tags": ["a", "b"], "limit": "inf"}
    assert type(got["names"][0]) is str
