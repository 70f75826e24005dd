"""``curvkit list-plugins``: a row a plugin, with the reason where one is not usable."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curvkit_core.host.kinds import KINDS
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.registry import Registry, default_registry
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.host.texts import ascii_only, counted
from curvkit_core.version import PLUGIN_API, __version__

if TYPE_CHECKING:
    from curvkit_core.host.availability import Availability
    from curvkit_core.host.finding import Finding

SCHEMA = 1
SHORT = {"loss adapter": ("loss", "losses")}
HEADER = ("NAME", "DIST", "VERSION", "API", "STATUS", "PROVIDES")
COMPONENT_HEADER = ("NAME", "KIND", "AVAILABLE", "TAGS", "SUMMARY")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--components", action="store_true", help="a row a component instead of a row a plugin")
    parser.add_argument("--json", action="store_true", help=f"print JSON, schema {SCHEMA}, and nothing else")
    parser.add_argument("--probe", action="store_true", help="run the components' probes (may import heavy libraries)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a plugin is broken or incompatible")


def main(args: argparse.Namespace) -> int:
    """Print the listing; 0, or with ``--strict`` 1 if a plugin is broken or incompatible."""
    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints while loading is not the listing's
        registry = default_registry()
        text = _as_json(registry, args.probe) if args.json else _as_text(registry, args)
    print(text)
    bad = any(p.status in ("broken", "incompatible") for p in registry.plugins)
    return 1 if args.strict and bad else 0


def _as_text(registry: Registry, args: argparse.Namespace) -> str:
    if args.components:
        rows = [_component_row(registry, spec, args.probe) for p in registry.plugins for spec in p.specs]
        lines = table([COMPONENT_HEADER, *rows])
    else:
        lines = table([HEADER, *(_plugin_row(p) for p in registry.plugins)])
    return "\n".join([*lines, *_footer(registry.plugins)])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows with columns as wide as their widest cell, two spaces apart, in ASCII."""
    plain = [[ascii_only(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in plain]


def provides(plugin: PluginRecord) -> str:
    """Return ``6 operators, 1 loss``, or ``-`` for nothing."""
    counts = [(sum(spec.kind == kind.kind for spec in plugin.specs), kind) for kind in KINDS]
    parts = [counted(number, *SHORT.get(kind.kind, (kind.kind, kind.plural))) for number, kind in counts if number]
    return ", ".join([*parts, *(["observes runs"] if plugin.observes else [])]) or "-"


def _plugin_row(plugin: PluginRecord) -> tuple[str, ...]:
    if plugin.status == "ok":
        cell = provides(plugin)
    elif plugin.status == "blocked":
        cell = f"- ({plugin.reason})"
    else:
        cell = f"- {plugin.stage}: {plugin.reason}"
    if plugin.findings and plugin.status != "blocked":
        cell += f" ({'; '.join(f'{f.stage}: {f.text}' for f in plugin.findings)})"
    return (plugin.namespace, plugin.dist, plugin.version, plugin.api or "-", plugin.status, cell)


def _component_row(registry: Registry, spec: ComponentSpec, probe: bool) -> tuple[str, ...]:
    answer = _shown(registry.availability(spec, probe=probe))
    return (spec.name, spec.kind, answer, ",".join(sorted(spec.tags)) or "-", spec.summary)


def _shown(answer: Availability) -> str:
    if answer.ok is None:
        return f"? ({answer.reason})"
    return "yes" if answer.ok else f"no: {answer.reason}"


def _footer(plugins: Sequence[PluginRecord]) -> list[str]:
    numbers = [(sum(p.status == status for p in plugins), status) for status in ("broken", "incompatible")]
    parts = [f"{number} {status}" for number, status in numbers if number]
    findings = sum(len(p.findings) for p in plugins if p.status != "blocked")
    parts += [counted(findings, "finding", "findings")] if findings else []
    return [f"{', '.join(parts)}. Details: curvkit doctor"] if parts else []


def _as_json(registry: Registry, probe: bool) -> str:
    import json

    return json.dumps(
        {
            "schema": SCHEMA,
            "core": __version__,
            "api": PLUGIN_API,
            "plugins": [_plugin_json(registry, p, probe) for p in registry.plugins],
        },
        indent=2,
    )


def _plugin_json(registry: Registry, plugin: PluginRecord, probe: bool) -> dict[str, object]:
    return {
        "name": plugin.namespace,
        "dist": plugin.dist,
        "version": plugin.version,
        "api": plugin.api or None,
        "status": plugin.status,
        "stage": plugin.stage,
        "reason": plugin.reason or None,
        "path": plugin.path,
        "import_ms": None if plugin.import_ms is None else round(plugin.import_ms, 1),
        "findings": [finding_json(f) for f in plugin.findings],
        "components": [_component_json(spec, registry.availability(spec, probe=probe)) for spec in plugin.specs],
    }


def finding_json(finding: Finding) -> dict[str, str]:
    """Return a finding as plain values."""
    return {"stage": finding.stage, "code": finding.code, "text": finding.text, "mend": finding.mend}


def _component_json(spec: ComponentSpec, answer: Availability) -> dict[str, object]:
    return {
        "name": spec.name,
        "kind": spec.kind,
        "summary": spec.summary,
        "available": answer.ok,
        "reason": answer.reason or None,
        "tags": sorted(spec.tags),
        "priority": spec.priority,
        "stability": spec.stability,
        "requires": list(spec.requires),
    }
