"""Mistakes in a run file, gathered and shown together."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from curvkit_core.errors import CurvkitError


@frozen
class Mistake:
    """One thing that is wrong, at its place.

    Parameters
    ----------
    path : str
        Where, as ``$.algorithm[0].k``; empty where the file as a whole is meant.
    text : str
        What was expected and what was found.
    """

    path: str
    text: str


class ConfigError(CurvkitError, ValueError):
    """Everything that is wrong with one run file (or command line), listed at once.

    Parameters
    ----------
    mistakes : iterable of Mistake
        At least one.
    source : str
        The file's name, or what else the values came from.
    """

    def __init__(self, mistakes: Iterable[Mistake], source: str = "") -> None:
        self.mistakes = tuple(mistakes)
        self.source = source
        assert self.mistakes, "a ConfigError needs at least one mistake"
        super().__init__(self._text())

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Mistake, ...], str]]:
        return type(self), (self.mistakes, self.source)  # Exception's own way would pass the text alone

    def _text(self) -> str:
        source = self.source or "configuration"
        if len(self.mistakes) == 1 and not self.mistakes[0].path:
            return f"{source}: {self.mistakes[0].text}"
        count = len(self.mistakes)
        width = min(max(len(m.path) for m in self.mistakes), 48)  # one long path moves no other text
        lines = [f"{source}: {count} error{'s' if count > 1 else ''}"]
        for mistake in self.mistakes:
            first, *rest = mistake.text.splitlines() or [""]
            lines.append(f"  {mistake.path:<{width}}  {first}")
            lines.extend(f"    {line}" for line in rest)
        return "\n".join(lines)


def one_mistake(source: str, text: str, path: str = "") -> ConfigError:
    """Return the error for a single mistake."""
    return ConfigError((Mistake(path, text),), source)
