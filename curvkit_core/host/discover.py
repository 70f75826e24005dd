"""Find plugins from installed metadata, importing nothing.

`importlib.metadata.entry_points` keeps the first copy of a distribution on ``sys.path`` and forgets the
others, so a stale one hides the plugin of a new one altogether. Here every copy is seen (`copies`).
"""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from curvkit_core.host.copies import Copy, copies_that_mention, second_copies
from curvkit_core.host.texts import one_line
from curvkit_core.version import PLUGIN_API

if TYPE_CHECKING:
    from curvkit_core.host.finding import Finding

GROUP_STEM = "curvkit.plugins.v"
OUR_MAJOR = PLUGIN_API.partition(".")[0]
RESERVED = ("core", "local")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")  # a regular expression costs start-up time


@frozen(kw_only=True)
class Candidate:
    """An entry point of ours that was found.

    Parameters
    ----------
    entry_point : EntryPoint or None
        What to load; None where the metadata could not be read.
    namespace, dist, version, path : str
        Whose it is, and the folder that holds the metadata.
    major : str
        The plugin API's major, from the group's name.
    problem, hint : str
        Why it cannot be loaded, where the metadata show that already.
    findings : tuple of Finding
    """

    entry_point: metadata.EntryPoint | None = field(eq=False)
    namespace: str
    dist: str
    version: str
    path: str = ""
    major: str = OUR_MAJOR
    problem: str = ""
    hint: str = ""
    findings: tuple[Finding, ...] = ()


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is ``[a-z0-9-]+``, as namespaces and stems must be."""
    return bool(name) and _PLAIN.issuperset(name)


def _is_target(value: str) -> bool:
    module, _, attr = value.partition(":")
    parts = [*module.strip().split("."), *(attr.strip().split(".") if attr else ())]
    return all(part.isidentifier() for part in parts)


def find_plugins(entry_points: Iterable[metadata.EntryPoint] | None = None) -> list[Candidate]:
    """Return the plugins that are installed, by namespace, then by distribution.

    Parameters
    ----------
    entry_points : iterable of EntryPoint or None
        Look at these instead of what is installed; their groups count as usual.

    Returns
    -------
    list of Candidate
        One per namespace and distribution. A distribution that speaks several majors is there once,
        with the major that this host speaks if it has that.
    """
    found = _installed() if entry_points is None else _given(entry_points)
    return sorted(_one_major(found), key=lambda c: (c.namespace, c.dist, c.version))


def _given(entry_points: Iterable[metadata.EntryPoint]) -> list[Candidate]:
    ours = [e for e in entry_points if e.group.startswith(GROUP_STEM)]
    return [_candidate(e, Copy(e.dist) if e.dist is not None else None) for e in ours]


def _installed() -> list[Candidate]:
    found: list[Candidate] = []
    for copies in copies_that_mention(GROUP_STEM):
        used = next(copy for copy in copies if copy.mentions(GROUP_STEM))
        findings = second_copies(used, copies)
        try:
            ours = [e for e in used.dist.entry_points if e.group.startswith(GROUP_STEM)]
        except Exception as error:  # noqa: BLE001 - a line without "=" is a TypeError, for one
            found.append(
                Candidate(
                    entry_point=None,
                    namespace=used.key,
                    dist=used.name,
                    version=used.version,
                    path=used.folder,
                    problem=f"its entry_points.txt cannot be read: {one_line(error)}",
                    hint=f"reinstall {used.name}",
                    findings=findings,
                )
            )
            continue
        found.extend(evolve(_candidate(e, used), findings=findings) for e in ours)
    return found


def _one_major(found: list[Candidate]) -> list[Candidate]:
    """Keep one major per distribution and namespace: ours, else the highest."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in found:
        groups.setdefault((candidate.namespace, candidate.dist), []).append(candidate)
    kept = []
    for (namespace, dist), group in groups.items():
        ours = [c for c in group if c.major == OUR_MAJOR]
        best = ours[0] if ours else max(group, key=lambda c: (c.major.isdigit() and int(c.major), c.major))
        same = [c for c in group if c.major == best.major]
        if len(same) > 1:
            values = " and ".join(sorted(c.entry_point.value for c in same if c.entry_point is not None))
            problem = f"{dist} declares {namespace!r} twice: {values}"
            best = evolve(best, problem=problem, hint=f"upgrade {dist} or tell its author")
        kept.append(best)
    return kept


def _candidate(entry_point: metadata.EntryPoint, copy: Copy | None) -> Candidate:
    problem = hint = ""
    dist = copy.name if copy else "(no distribution)"
    if entry_point.name in RESERVED:
        problem = f"the namespace {entry_point.name!r} is reserved: it cannot come from a distribution"
        hint = f"the author of {dist} must choose another entry-point name"
    elif not is_plain_name(entry_point.name):
        problem = f"the namespace {entry_point.name!r} is malformed: expected [a-z0-9-]+"
        hint = f"the author of {dist} must choose another entry-point name"
    elif not _is_target(entry_point.value):
        problem = f"the entry point's value {entry_point.value!r} is malformed: expected a module's name"
        hint = f"the author of {dist} must correct the entry point"
    return Candidate(
        entry_point=entry_point,
        namespace=entry_point.name,
        dist=dist,
        version=copy.version if copy else "?",
        path=copy.folder if copy else "",
        major=entry_point.group.removeprefix(GROUP_STEM),
        problem=problem,
        hint=hint,
    )
