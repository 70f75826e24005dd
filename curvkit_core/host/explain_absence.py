"""Why a name is not in a catalog: each cause has its own error, and each error names the plugin behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curvkit_core.errors import (
    AmbiguousComponentError,
    RegistryError,
    UnavailableComponentError,
    UnknownComponentError,
)
from curvkit_core.host.install_hints import install_hint
from curvkit_core.host.kinds import KINDS, Kind
from curvkit_core.host.near_names import did_you_mean, near_names
from curvkit_core.host.records import PluginRecord

if TYPE_CHECKING:
    from curvkit_core.host.catalog import Catalog
    from curvkit_core.host.registry import Registry


def absence(name: str, catalog: Catalog[Any]) -> RegistryError:
    """Return the error for a name that a catalog does not have.

    Parameters
    ----------
    name : str
        As the user wrote it, with or without a namespace.
    catalog : Catalog

    Returns
    -------
    RegistryError
        Unavailable where a plugin of that namespace is installed but out; Ambiguous for a bare name with
        several owners; else Unknown.
    """
    kind, known, registry = catalog.kind, catalog.names(), catalog.registry
    if "/" not in name:
        return _bare(name, kind, known, registry)
    namespace = name.partition("/")[0]
    listed = _known(kind, known)
    records = [p for p in registry.plugins if p.namespace == namespace]
    out = [p for p in records if p.status != "ok"]
    if out and len(out) == len(records):
        lines = [f"{kind.kind} {name!r} is not available.", *(_why_out(p) for p in out)]
        if all(p.status == "blocked" for p in out):
            return UnavailableComponentError("\n".join([*lines, f"  mend: lift the block. {listed}"]))
        return UnavailableComponentError("\n".join([*lines, f"  mend: see `curvkit doctor {namespace}`. {listed}"]))
    start = f"{kind.kind} {name!r} is unknown"
    elsewhere = _other_kinds(name, registry)
    if elsewhere:
        return UnknownComponentError(f"{start}: {name} is {elsewhere}. {listed}")
    near = did_you_mean(name, known)
    if namespace in ("core", "local"):
        return UnknownComponentError(_sentences(f"{start}{near}", listed))
    if records:
        return UnknownComponentError(
            _sentences(f"{start}: plugin {records[0].label} has none of that name{near}", listed)
        )
    hint = install_hint(namespace)
    if hint:
        return UnknownComponentError(f"{start}: no plugin provides {namespace!r}. mend: {hint}")
    return UnknownComponentError(_sentences(f"{start}: no plugin provides {namespace!r}{near}", listed))


def _bare(name: str, kind: Kind, known: Sequence[str], registry: Registry) -> RegistryError:
    owners = [n for n in known if n.partition("/")[2] == name]
    if len(owners) > 1:
        several = f"{kind.kind} {name!r} is ambiguous: {', '.join(owners)}"
        return AmbiguousComponentError(f"{several}. mend: write the namespace")
    start = f"{kind.kind} {name!r} is unknown"
    if owners:
        return UnknownComponentError(f"{start}: core has none of that name. mend: write the namespace: {owners[0]}")
    elsewhere = _other_kinds(f"core/{name}", registry)
    if elsewhere:
        return UnknownComponentError(f"{start}: core/{name} is {elsewhere}. {_known(kind, known)}")
    near = near_names(name, [n.partition("/")[2] for n in known])
    full = [n for n in known if near and n.partition("/")[2] == near[0]]
    did = f"; did you mean {full[0]!r}?" if full else ""
    lost = "".join(f"\n{_why_out(p)}" for p in registry.plugins if p.status in ("broken", "incompatible"))
    return UnknownComponentError(_sentences(f"{start}{did}", f"{_known(kind, known)}{lost}"))


def _why_out(record: PluginRecord) -> str:
    start = f"  plugin {record.label} is installed but"
    if record.status == "blocked":
        return f"{start} blocked ({record.reason})"
    if record.status == "incompatible":
        return f"{start} incompatible: {record.reason}"
    return f"{start} failed at {record.stage}: {record.reason}"


def _other_kinds(name: str, registry: Registry) -> str:
    kinds = [spec.kind for spec in KINDS if name in registry.catalog(spec.kind)]
    return " and ".join(f"{'an' if k[0] in 'aeiou' else 'a'} {k}" for k in kinds)


def _sentences(first: str, second: str) -> str:
    return f"{first} {second}" if first.endswith("?") else f"{first}. {second}"


def _known(kind: Kind, known: Sequence[str]) -> str:
    return f"Known {kind.plural}: {', '.join(known)}" if known else f"No {kind.kind} is known"
