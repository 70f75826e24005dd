"""`--set`: TOML values at paths into the file's tables."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from curvkit_core.config import ConfigError, apply_settings, parse_setting

DATA = {"schema": 1, "problem": {"kind": "a"}, "algorithm": [{"k": 1}, {"k": 2}], "list": [[1, 2]]}


@pytest.mark.parametrize(
    ("setting", "keys", "value"),
    [
        ("algorithm.0.k=20", ("algorithm", "0", "k"), 20),
        ("$.algorithm[0].k = 20", ("algorithm", 0, "k"), 20),
        ('problem."a.b"="x=y"', ("problem", "a.b"), "x=y"),
        ("problem.'a=b'=1.5", ("problem", "a=b"), 1.5),
        (r'"a\"b"=true', ('a"b',), True),
        ('a=["x", "y"]', ("a",), ["x", "y"]),
        ("a={b = 1}", ("a",), {"b": 1}),
    ],
)
def test_setting_is_a_path_and_a_toml_value(setting: str, keys: tuple[Any, ...], value: Any) -> None:
    """Dots or brackets, quoted keys, any TOML value."""
    got = parse_setting(setting)
    assert got == (keys, value)
    assert type(got[1]) is type(value)


def test_settings_are_applied_in_order_to_a_copy() -> None:
    """A later one wins; missing tables are made; the data given stay as they were."""
    before = copy.deepcopy(DATA)
    got = apply_settings(
        DATA,
        [
            "algorithm.1.k=5",
            "algorithm[1].k=6",
            'backend.kind="core/single"',
            "list.0.1=9",
            "problem.0=true",
        ],
    )
    assert got == {
        **before,
        "algorithm": [{"k": 1}, {"k": 6}],
        "backend": {"kind": "core/single"},
        "list": [[1, 9]],
        "problem": {"kind": "a", "0": True},
    }
    assert before == DATA


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("a", "expected path=VALUE, such as algorithm.0.k=20"),
        ("a=", """'' is not a TOML value; a string stands in quotes: --set 'a=""'"""),
        ("a.b=LA", """'LA' is not a TOML value; a string stands in quotes: --set 'a.b="LA"'"""),
        ("a=1\nb=2", "is not a TOML value"),
        ("=1", "'' is not a path"),
        ("a..b=1", "'a..b' is not a path"),
        ("a b=1", "'a b' is not a path"),
        ("algorithm.5.k=1", "$.algorithm has no entry 5: expected a number from 0 to 1"),
        ("algorithm.k=1", "$.algorithm is a list: expected a number from 0 to 1, got 'k'"),
        ("algorithm.0.k.z=1", "$.algorithm[0].k is int 1, so it holds no 'z'"),
        ("algoritm.0.k=1", "$ has no list 'algoritm'; did you mean 'algorithm'?"),
    ],
)
def test_bad_setting_is_named(setting: str, text: str) -> None:
    """What cannot be read or has no place is one line, and all of them come at once."""
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        apply_settings(DATA, [setting, "b=ALSO"])
    assert len(caught.value.mistakes) == 2
