"""The copies of a distribution's metadata on ``sys.path``, those that `importlib.metadata` would pass over as well.

One walk over the names in each folder; a file is opened for its entry points alone, and everything else is read for
the few that matter. With 370 distributions this takes 4 ms where `importlib.metadata.distributions` takes 9.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvkit_core.host.finding import Finding


def normalized(name: str) -> str:
    """Return a name as PyPI compares them.

    Examples
    --------
    >>> normalized("Acme_Curvature")
    'acme-curvature'
    """
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def copies_that_mention(text: str) -> list[list[Copy]]:
    """Return the copies of each distribution one of whose copies has `text` in its entry points, in path order.

    What cannot be read is passed over here; ``curvkit doctor`` names it (`full_walk`).
    """
    seen: list[tuple[str, str | metadata.Distribution]] = []
    wanted: dict[str, list[Copy]] = {}
    sought = text.encode()
    for key, place in _everywhere():
        seen.append((key, place))
        if key not in wanted and _holds(place, text, sought):
            wanted[key] = []
    for key, place in seen if wanted else ():
        if key in wanted:
            wanted[key].append(Copy(metadata.Distribution.at(place) if isinstance(place, str) else place))
    return list(wanted.values())


def _everywhere() -> Iterator[tuple[str, str | metadata.Distribution]]:
    """Yield the normalised name and the place of each metadata folder, or the distribution where it is no folder."""
    for entry in sys.path:
        folder = entry or "."
        try:
            names = [] if folder.endswith(".egg") else os.listdir(folder)  # noqa: PTH208 - names are all that is needed
        except OSError:
            names = []
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                yield normalized(_stem(name).partition("-")[0]), f"{folder}/{name}"
        if not names and Path(folder).exists():  # a zip file or an egg
            yield from ((Copy(dist).key, dist) for dist in metadata.distributions(path=[entry]))
    for finder in sys.meta_path:
        if finder is not PathFinder and hasattr(finder, "find_distributions"):
            yield from (
                (Copy(dist).key, dist) for dist in finder.find_distributions(metadata.DistributionFinder.Context())
            )


def _stem(name: str) -> str:
    return name.removesuffix(".dist-info").removesuffix(".egg-info")


def _holds(place: str | metadata.Distribution, text: str, sought: bytes) -> bool:
    try:
        if not isinstance(place, str):
            return text in (place.read_text("entry_points.txt") or "")
        # plain open: once per installed distribution, and a third of pathlib's time
        with open(f"{place}/entry_points.txt", "rb") as file:  # noqa: PTH123
            return sought in file.read()
    except (OSError, UnicodeDecodeError):
        return False


class Copy:
    """One metadata folder of a distribution; name and version are read on demand, from the header alone."""

    def __init__(self, dist: metadata.Distribution) -> None:
        self.dist = dist
        place = getattr(dist, "_path", None)  # there is no public name for the folder itself
        self.place = str(place) if place is not None else ""
        self.base = getattr(place, "name", "")
        self._stem_name, _, rest = _stem(str(self.base)).partition("-")
        self._stem_version = rest.partition("-")[0]
        self.key = normalized(self._stem_name or self.name)

    def header(self, field_name: str) -> str:
        """Return a field of METADATA or PKG-INFO; the e-mail parser of importlib costs start-up time."""
        try:
            texts = (self.dist.read_text(name) for name in ("METADATA", "PKG-INFO", ""))
            text = next(filter(None, texts), "")
        except (OSError, UnicodeDecodeError):
            return ""
        for line in text.splitlines():
            if not line.strip():
                break
            name, _, value = line.partition(":")
            if name.lower() == field_name:
                return value.strip()
        return ""

    @property
    def name(self) -> str:
        """As its author wrote it."""
        return self.header("name") or self._stem_name or "?"

    @property
    def version(self) -> str:
        """From the metadata, else from the folder's name."""
        return self.header("version") or self._stem_version or "?"

    def mentions(self, text: str) -> bool:
        """Whether its entry points hold a text, such as a group's name."""
        return text in (_declared(self) or "")

    @property
    def folder(self) -> str:
        """The entry of ``sys.path`` that it lies in."""
        return str(Path(self.place).parent if self.place else self.dist.locate_file(""))


def second_copies(used: Copy, copies: list[Copy]) -> tuple[Finding, ...]:
    """Return a finding for each other copy that differs from the one in use; an equal one harms nobody."""
    if copies == [used]:
        return ()
    from curvkit_core.host.finding import Finding

    findings = []
    seen = {os.path.realpath(used.place)}
    for copy in copies:
        real = os.path.realpath(copy.place)
        if copy is used or real in seen:
            continue
        seen.add(real)
        if copy.version == used.version and _declared(copy) == _declared(used):
            continue
        what = "stale .egg-info" if copy.base.endswith(".egg-info") else "a second .dist-info"
        findings.append(
            Finding(
                stage="discover",
                code="second-copy",
                text=f"a second copy, {copy.version}, is on sys.path",
                detail=f"found twice: {used.version} at {used.folder} (used), {copy.version} at {copy.folder} ({what})",
                mend="delete the second",
            )
        )
    return tuple(findings)


def _declared(copy: Copy) -> str | None:
    try:
        return (copy.dist.read_text("entry_points.txt") or "").strip()
    except (OSError, UnicodeDecodeError):
        return None
