"""Doctor's look at the metadata of everything that is installed, at about 170 ms per 300 distributions.

The listing goes by folder names. Here each header is read, so a copy whose folder is named otherwise, an empty folder
and metadata that cannot be read come to light as well.
"""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterable

from attrs import frozen

from curvkit_core.host.copies import Copy, normalized, second_copies
from curvkit_core.host.discover import GROUP_STEM
from curvkit_core.host.finding import Finding
from curvkit_core.version import __version__

CORE = "curvkit-core"


@frozen(kw_only=True)
class Walk:
    """What the walk saw.

    Parameters
    ----------
    findings : dict
        Normalised distribution name -> what is odd about its copies.
    unreadable : tuple of str
        Metadata that cannot be read, whoever's they are, a sentence each.
    """

    findings: dict[str, tuple[Finding, ...]]
    unreadable: tuple[str, ...]


def full_walk(dists: Iterable[str]) -> Walk:
    """Look at every copy of the distributions named, and of core.

    Parameters
    ----------
    dists : iterable of str
        The distributions that plugins come from.
    """
    copies: dict[str, list[Copy]] = {}
    unreadable = []
    wanted = {normalized(dist) for dist in dists}
    for dist in metadata.distributions():
        copy = Copy(dist)
        try:
            dist.read_text("entry_points.txt")
        except (OSError, UnicodeDecodeError) as error:
            unreadable.append(f"the entry points of {copy.place} cannot be read: {type(error).__name__}")
        key = normalized(copy.name)
        if key in wanted or key == CORE:
            copies.setdefault(key, []).append(copy)
    findings = {key: _odd(group) for key, group in copies.items() if key in wanted}
    if CORE in copies:
        findings[CORE] = tuple(_core(copy) for copy in copies[CORE] if copy.version != __version__)
    return Walk(findings=findings, unreadable=tuple(unreadable))


def _odd(group: list[Copy]) -> tuple[Finding, ...]:
    """As the listing, where the copy in use is the first that declares a plugin."""
    used = next((c for c in group if c.mentions(GROUP_STEM)), group[0])
    empty = [
        Finding(
            stage="discover",
            code="empty-metadata",
            text=f"{copy.place} has no METADATA",
            mend="delete that folder, then reinstall",
        )
        for copy in group
        if not copy.header("name")
    ]
    return (*second_copies(used, [c for c in group if c.header("name")]), *empty)


def _core(copy: Copy) -> Finding:
    text = f"{copy.place} says {copy.version}, the code in use is {__version__}"
    mend = "reinstall curvkit-core, or delete that folder"
    return Finding(stage="discover", code="core-metadata", text=text, mend=mend)
