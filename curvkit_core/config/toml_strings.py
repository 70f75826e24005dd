"""Strings and keys as TOML writes them."""

from __future__ import annotations

import re

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = re.compile(r'[\x00-\x1f\x7f"\\]')
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def quoted(text: str) -> str:
    """Return a basic string: in double quotes, on one line."""
    return f'"{_SPECIAL.sub(_escape, text)}"'


def show_key(key: str) -> str:
    """Return a key, quoted where it is not bare."""
    return key if _BARE_KEY.fullmatch(key) else quoted(key)


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return _SHORT.get(char, f"\\u{ord(char):04x}")
