"""`did you mean` for a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three known names that are near, the nearest first; case does not matter."""
    import difflib  # only when a name was wrong: it costs start-up time

    folded = {k.casefold(): k for k in sorted(known)}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'k'?`` for the nearest known name, or an empty string."""
    near = near_names(name, known)
    return f"; did you mean {near[0]!r}?" if near else ""
