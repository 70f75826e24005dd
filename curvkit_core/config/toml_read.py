"""Reading a TOML file: whatever is wrong with it is one clear message."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from curvkit_core.config.errors import one_mistake


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return a TOML file's tables.

    Parameters
    ----------
    path : str or Path
        The file, UTF-8, with or without a byte order mark.

    Returns
    -------
    dict
        Its tables and values.

    Raises
    ------
    ConfigError
        If there is no such file, it is a directory, cannot be read, is not UTF-8, is not TOML or is empty.
    """
    path = Path(path)
    source = str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise one_mistake(source, f"no such file{_near_files(path)}") from None
    except IsADirectoryError:
        raise one_mistake(source, f"is a directory, expected a TOML file{_files_inside(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise one_mistake(source, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        hint = " (it looks like UTF-16)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        msg = f"is not UTF-8: byte 0x{raw[error.start]:02x} in line {line}{hint}. Save it as UTF-8"
        raise one_mistake(source, msg) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise one_mistake(source, f"is not TOML: {error}") from None
    except RecursionError:
        raise one_mistake(source, "is not readable: its lists or tables are nested too deeply") from None
    except ValueError as error:  # an int of more than 4,300 digits
        raise one_mistake(source, f"is not readable: {error}") from None
    if not data:
        raise one_mistake(source, "is empty: expected TOML tables")
    return data


def _near_files(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f", and no directory {path.parent}"
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""


def _files_inside(path: Path) -> str:
    try:
        inside = sorted(entry.name for entry in path.glob("*.toml"))
    except OSError:
        return ""
    return f" such as {str(path / inside[0])!r}" if inside else ""
