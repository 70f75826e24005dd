"""`--set algorithm.0.k=20`: values given on the command line, written as in TOML."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from curvkit_core.config.errors import ConfigError, Mistake
from curvkit_core.config.mistakes import Keys, show_path
from curvkit_core.config.near_names import near_or_known
from curvkit_core.config.toml_strings import quoted
from curvkit_core.config.type_words import value_words

_SEGMENT = re.compile(
    r"""\[(?P<index>\d+)\]|\.?(?:(?P<bare>[A-Za-z0-9_-]+)|"(?P<quoted>(?:[^"\\]|\\.)*)"|'(?P<raw>[^']*)')"""
)

_PATH = re.compile(r"""((?:[^="']|"(?:[^"\\]|\\.)*"|'[^']*')*)=""")


def apply_settings(data: dict[str, Any], settings: Iterable[str], *, source: str = "--set") -> dict[str, Any]:
    """Return the data with settings applied, each ``path=VALUE``; the data themselves stay as they are.

    Parameters
    ----------
    data : dict
        A run file's tables.
    settings : iterable of str
        ``algorithm.0.k=20`` or, as errors write it, ``$.algorithm[0].k=20``. The value is TOML: strings stand
        in quotes. A later one wins. Tables that are missing are made, entries of a list are not.
    source : str
        For the errors.

    Returns
    -------
    dict
        A new one.

    Raises
    ------
    ConfigError
        With every setting that cannot be read or has no place.
    """
    data = copy.deepcopy(data)
    mistakes: list[Mistake] = []
    for setting in settings:
        try:
            keys, value = parse_setting(setting)
            _put(data, keys, value)
        except ValueError as error:
            mistakes.append(Mistake(setting.partition("\n")[0], str(error)))
    if mistakes:
        raise ConfigError(mistakes, source)
    return data


def parse_setting(setting: str) -> tuple[Keys, Any]:
    """Return the keys and the value of ``a.0.b=VALUE``.

    Raises
    ------
    ValueError
        If it has no ``=``, a path that cannot be read, or a value that is not TOML.
    """
    path, equals, text = _split(setting)
    if not equals:
        msg = "expected path=VALUE, such as algorithm.0.k=20"
        raise ValueError(msg)
    keys = _keys(path.strip())
    try:
        table = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError
        table = {}
    if set(table) != {"value"}:
        example = f"--set '{path.strip()}={quoted(text.strip())}'"
        msg = f"{text.strip()!r} is not a TOML value; a string stands in quotes: {example}"
        raise ValueError(msg)
    return keys, table["value"]


def _split(setting: str) -> tuple[str, str, str]:
    """Split at the first ``=`` outside quotes, for a key may hold one."""
    match = _PATH.match(setting)
    return (match[1], "=", setting[match.end() :]) if match else (setting, "", "")


def _keys(path: str) -> Keys:
    rest = path.removeprefix("$").removeprefix(".") if path.startswith("$") else path
    keys: list[str | int] = []
    while rest:
        match = _SEGMENT.match(rest)
        if match is None or (not keys and rest.startswith(".")) or (keys and rest[0] not in ".["):
            break
        if match["index"] is not None:
            keys.append(int(match["index"]))
        elif match["bare"] is not None:
            keys.append(match["bare"])
        elif match["quoted"] is not None:
            keys.append(re.sub(r"\\(.)", r"\1", match["quoted"]))
        else:
            keys.append(match["raw"])
        rest = rest[match.end() :]
    if rest or not keys:
        msg = f"{path!r} is not a path: expected keys and numbers joined by dots, as algorithm.0.k"
        raise ValueError(msg)
    return tuple(keys)


def _put(data: dict[str, Any], keys: Keys, value: Any) -> None:
    here: Any = data
    walked: Keys = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where = show_path("$", walked)
        if isinstance(here, list):
            index = _index(here, key, where)
            walked += (index,)
            if last:
                here[index] = value
            here = here[index]
        elif isinstance(here, dict):
            name = str(key)
            walked += (name,)
            if last:
                here[name] = value
            elif name not in here:
                if str(keys[depth + 1]).isdigit():
                    hint = near_or_known(name, here)
                    raise ValueError(f"{where} has no list {name!r}" + (f"; {hint}" if hint else ""))
                here[name] = {}
            here = here[name]
        else:
            msg = f"{where} is {value_words(here)}, so it holds no {key!r}"
            raise ValueError(msg)


def _index(items: list[Any], key: str | int, where: str) -> int:
    if not str(key).isdigit():
        msg = f"{where} is a list: expected a number from 0 to {len(items) - 1}, got {key!r}"
        raise ValueError(msg)
    if int(key) >= len(items):
        msg = f"{where} has no entry {key}: expected a number from 0 to {len(items) - 1}"
        raise ValueError(msg)
    return int(key)
