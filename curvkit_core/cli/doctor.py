"""``curvkit doctor``: each plugin loaded in a process of its own, with the causes of what is wrong and the mend."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from curvkit_core.errors import RegistryError
from curvkit_core.host.assemble import load_core
from curvkit_core.host.copies import normalized
from curvkit_core.host.discover import OUR_MAJOR, Candidate
from curvkit_core.host.finding import Finding
from curvkit_core.host.full_walk import Walk, full_walk
from curvkit_core.host.install_hints import install_hint
from curvkit_core.host.loader import load_plugin
from curvkit_core.host.near_names import did_you_mean
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.registry import survey_default
from curvkit_core.host.texts import ascii_only, counted
from curvkit_core.version import PLUGIN_API, __version__

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curvkit_core.host.measure import measure; measure(*sys.argv[2:])"
)


@frozen(kw_only=True)
class Diagnosis:
    """A plugin's record with what only a child process can tell.

    Parameters
    ----------
    record : PluginRecord
    traceback : tuple of str
        The plugin's own frames, and what was raised.
    names : tuple of str
        What it provides, ``"operator acme/kfac"``.
    """

    record: PluginRecord
    traceback: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def num_problems(self) -> int:
        """One for a plugin that is out, and one for each finding; a blocked one has none."""
        if self.record.status == "blocked":
            return 0
        return (self.record.status != "ok") + len(self.record.findings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one plugin, by namespace or distribution")
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long one plugin may take to load (default: 120)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the diagnoses; 0 if there is no problem, else 1."""
    items, warnings = survey_default()
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    chosen = _chosen([load_core(), *items], args.name)
    walk = full_walk(item.dist for item in items)
    diagnoses = [_with_walk(_diagnose(item, args.timeout), walk) for item in chosen]
    width = max(len(d.record.namespace) for d in diagnoses)
    lines = [line for d in diagnoses for line in _lines(d, width, whole=args.name is not None)]
    unreadable = () if args.name is not None else walk.unreadable
    count = sum(d.num_problems for d in diagnoses) + len(unreadable)
    lines += [f"{text}. mend: delete or reinstall it" for text in unreadable]
    lines.append(counted(count, "problem", "problems") if count else "no problems")
    print("\n".join(ascii_only(line) for line in lines))
    return 1 if count else 0


def _chosen(items: Sequence[Candidate | PluginRecord], name: str | None) -> list[Candidate | PluginRecord]:
    if name is None:
        return list(items)
    chosen = [i for i in items if normalized(name) in (normalized(i.namespace), normalized(i.dist))]
    if not chosen:
        known = sorted({i.namespace for i in items})
        hint = f". mend: {install_hint(name)}." if install_hint(name) else did_you_mean(name, known) or "."
        msg = f"no plugin {name!r} is installed{hint} Installed: {', '.join(known)}"
        raise RegistryError(msg)
    return chosen


def _diagnose(item: Candidate | PluginRecord, timeout: float) -> Diagnosis:
    if isinstance(item, PluginRecord) and item.status == "blocked":
        return Diagnosis(record=item)
    if isinstance(item, Candidate) and (item.problem or item.major != OUR_MAJOR):
        return Diagnosis(record=load_plugin(item))  # refused before any import
    outcome = _in_child(item.namespace, item.dist, timeout)
    record = PluginRecord(
        namespace=item.namespace,
        dist=item.dist,
        version=item.version,
        path=item.path,
        **{key: outcome[key] for key in ("status", "stage", "api", "reason", "hint", "import_ms", "observes")},
        details=tuple(outcome["details"]),
        findings=tuple(Finding(**f) for f in outcome["findings"]),
    )
    names = tuple(f"{kind} {name}" for kind, name in outcome["provides"])
    return Diagnosis(record=record, traceback=tuple(outcome["traceback"]), names=names)


def _in_child(namespace: str, dist: str, timeout: float) -> Mapping[str, Any]:
    """Load one plugin in a child process; a child that dies or hangs is an outcome, too."""
    lost: dict[str, Any] = {
        "status": "broken",
        "stage": "import",
        "api": "",
        "details": [],
        "import_ms": None,
        "findings": [],
        "traceback": [],
        "provides": [],
        "observes": False,
        "hint": f"block it: CURVKIT_BLOCK_PLUGINS={namespace}",
    }
    with tempfile.TemporaryDirectory(prefix="curvkit-doctor-") as folder:
        destination = Path(folder) / "outcome.json"
        command = [sys.executable, "-c", CHILD, json.dumps(sys.path), namespace, dist, str(destination)]
        try:
            child = subprocess.run(command, capture_output=True, timeout=timeout, env=dict(os.environ), check=False)
        except subprocess.TimeoutExpired:
            return {**lost, "reason": f"loading it did not end within {timeout:g} s"}
        if not destination.exists():
            said = child.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]
            reason = f"it ended the process that loaded it, with code {child.returncode}"
            return {**lost, "reason": reason, "traceback": [f"  {line}" for line in said]}
        outcome: dict[str, Any] = json.loads(destination.read_text(encoding="utf-8"))
        return outcome


def _with_walk(diagnosis: Diagnosis, walk: Walk) -> Diagnosis:

    record = diagnosis.record
    known = {f.detail or f.text for f in record.findings}
    more = [f for f in walk.findings.get(normalized(record.dist), ()) if (f.detail or f.text) not in known]
    return evolve(diagnosis, record=evolve(record, findings=(*record.findings, *more))) if more else diagnosis


def _lines(diagnosis: Diagnosis, width: int, *, whole: bool) -> list[str]:
    record = diagnosis.record
    stage = record.stage
    if record.status == "ok":
        stage = record.findings[0].stage if record.findings else ""
    time = "" if record.import_ms is None else f"{record.import_ms:.0f} ms"
    row = f"{record.namespace:<{width}}  {record.status:<12}  {stage:<9}{time:>10}"
    if record.status == "blocked":
        lines = [f"{row}({record.reason})"]
    else:
        lines = [row.rstrip(), *_causes(diagnosis)]
        lines += [f"  {f.detail or f.text}{f'. mend: {f.mend}' if f.mend else ''}" for f in record.findings]
    return [*lines, *_whole(diagnosis)] if whole else lines


def _causes(diagnosis: Diagnosis) -> list[str]:
    record = diagnosis.record
    if record.status == "ok":
        return []
    if record.status == "incompatible":
        return [
            f"  needs plugin API {record.api}, this curvkit-core {__version__} speaks {PLUGIN_API}. mend: {record.hint}"
        ]
    told = diagnosis.traceback and record.reason.split("\n")[0].partition(":")[0] in "\n".join(diagnosis.traceback)
    reasons = [] if told else [f"  {text}" for text in record.details or (record.reason,)]
    return [*reasons, *diagnosis.traceback, f"  mend: {record.hint}"]


def _whole(diagnosis: Diagnosis) -> list[str]:
    record = diagnosis.record
    lines = [f"  distribution {record.dist} {record.version} at {record.path or 'an unknown place'}"]
    if record.status == "ok":
        lines.append(f"  plugin API {record.api}; provides {_provided(diagnosis)}")
        lines += [f"    {name}" for name in diagnosis.names]
    return lines


def _provided(diagnosis: Diagnosis) -> str:
    counts: dict[str, int] = {}
    for name in diagnosis.names:
        kind = name.rpartition(" ")[0]
        counts[kind] = counts.get(kind, 0) + 1
    parts = [f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in counts.items()]
    return ", ".join([*parts, *(["observes runs"] if diagnosis.record.observes else [])]) or "nothing"
