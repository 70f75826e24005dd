"""Mistakes on their way up: each level of a nested value adds its own key in front."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cattrs.errors import AttributeValidationNote, BaseValidationError, IterableValidationNote

from curvkit_core.config.errors import Mistake
from curvkit_core.config.toml_strings import show_key

Keys = tuple[str | int, ...]


class StructureError(ValueError):
    """Mistakes in one value, their keys relative to it.

    Parameters
    ----------
    mistakes : iterable of (keys, text)
        ``((), text)`` speaks of the value itself.
    """

    def __init__(self, mistakes: Iterable[tuple[Keys, str]]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("; ".join(text for _, text in self.mistakes))


def mistake(text: str) -> StructureError:
    """Return the error for one mistake that speaks of the value itself."""
    return StructureError([((), text)])


def mistakes_of(error: Exception) -> list[tuple[Keys, str]]:
    """Return what an error of a hook says, the hook being ours, cattrs' or a third party's."""
    if isinstance(error, StructureError):
        return error.mistakes
    if isinstance(error, BaseValidationError):
        return [found for part in error.exceptions for found in under(_noted_keys(part), part)]
    return [((), message_of(error))]


def under(keys: Keys, error: Exception) -> list[tuple[Keys, str]]:
    """Return an error's mistakes with `keys` in front."""
    return [(keys + rest, text) for rest, text in mistakes_of(error)]


def message_of(error: BaseException) -> str:
    """Return an exception's own words: attrs' validators put them first among several arguments."""
    if len(error.args) > 1 and isinstance(error.args[0], str) and isinstance(error, (ValueError, TypeError)):
        return error.args[0]
    if isinstance(error, KeyError) and error.args:
        return f"missing key {error.args[0]!r}"
    return str(error) or type(error).__name__


def show_path(root: str, keys: Keys) -> str:
    """Return ``$.algorithm[0].k`` for the root ``$`` and the keys below it."""
    return root + "".join(f"[{key}]" if isinstance(key, int) else f".{show_key(key)}" for key in keys)


def placed(root: str, error: Exception) -> list[Mistake]:
    """Return an error's mistakes with whole paths."""
    return [Mistake(show_path(root, keys), text) for keys, text in mistakes_of(error)]


def _noted_keys(error: Any) -> Keys:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()
