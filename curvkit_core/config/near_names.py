"""`did you mean` for keys and names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near_or_known(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'k'?``, or ``known: a, b`` where nothing is near, or an empty string."""
    names = sorted(known)
    folded = {n.casefold(): n for n in names}
    near = [folded[n] for n in get_close_matches(name.casefold(), list(folded), n=2, cutoff=0.6)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"known: {', '.join(names)}" if names else ""
