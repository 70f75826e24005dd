"""From what was found to what is loaded: the filters, equal namespaces, core's own part, strict mode."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from attrs import evolve

from curvkit_core.errors import PluginError
from curvkit_core.host.discover import Candidate
from curvkit_core.host.filters import BLOCK_VARIABLE, Filters
from curvkit_core.host.loader import load_plugin
from curvkit_core.host.records import PluginRecord
from curvkit_core.version import __version__

STRICT_VARIABLE = "CURVKIT_STRICT_PLUGINS"


def load_all(candidates: Iterable[Candidate], filters: Filters, *, strict: bool) -> list[PluginRecord]:
    """Load core, then each candidate that the filters let in.

    Raises
    ------
    Exception
        Only if `strict`: whatever the first failing plugin raised, or a `PluginError`.
    """
    loaded = [load_core()]
    for item in sift(candidates, filters):
        record = item if isinstance(item, PluginRecord) else load_plugin(item)
        if strict and record.status in ("broken", "incompatible"):
            _raise(record)
        loaded.append(record)
    return loaded


def sift(candidates: Iterable[Candidate], filters: Filters) -> list[Candidate | PluginRecord]:
    """Return, in order, the candidates that may load, and a record for each that may not.

    Two distributions with one namespace are both out: neither the path nor the alphabet decides.
    """
    ordered: list[Candidate | PluginRecord] = []
    owners: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        reason = filters.refusal(candidate)
        if reason:
            ordered.append(
                PluginRecord(
                    namespace=candidate.namespace,
                    dist=candidate.dist,
                    version=candidate.version,
                    path=candidate.path,
                    status="blocked",
                    stage="filter",
                    reason=reason,
                    findings=candidate.findings,
                )
            )
        else:
            ordered.append(candidate)
            owners.setdefault(candidate.namespace, []).append(candidate)
    return [_doubled(c, owners[c.namespace]) if isinstance(c, Candidate) else c for c in ordered]


def _doubled(candidate: Candidate, owners: list[Candidate]) -> Candidate:
    if len(owners) == 1 or candidate.problem:
        return candidate
    names = " and ".join(f"{o.dist} {o.version}" for o in owners)
    other = next(o.dist for o in owners if o is not candidate)
    return evolve(
        candidate,
        problem=f"{len(owners)} distributions provide {candidate.namespace!r}: {names}",
        hint=f"uninstall one, or block one by its distribution: {BLOCK_VARIABLE}={other}",
    )


def load_core() -> PluginRecord:
    """Register core's own components, directly: no entry point, no metadata, no filter.

    Raises
    ------
    PluginError
        If core itself is broken; there is nothing to go on with.
    """
    start = time.perf_counter()
    from curvkit_core.host import builtin  # here, so that its import is timed as any plugin's

    found = Candidate(
        entry_point=None,
        namespace="core",
        dist="curvkit-core",
        version=__version__,
        path=str(Path(__file__).resolve().parents[2]),
    )
    core = load_plugin(found, module=builtin)
    if core.status != "ok":
        _raise(core)
    return evolve(core, import_ms=1e3 * (time.perf_counter() - start))


def is_strict(environ: Mapping[str, str]) -> bool:
    """Tell whether a failing plugin is to be raised rather than listed."""
    return environ.get(STRICT_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def _raise(record: PluginRecord) -> NoReturn:
    where = f"plugin {record.label} failed at {record.stage}"
    if isinstance(record.exception, Exception):
        record.exception.add_note(f"curvkit: {where}")
        raise record.exception
    msg = f"{where}: {'; '.join(record.details) or record.reason}\n  mend: {record.hint}"
    raise PluginError(msg) from record.exception
