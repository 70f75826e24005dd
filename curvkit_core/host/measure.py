"""Load one plugin in a process of its own and write down what happened; the child's side of ``curvkit doctor``."""

from __future__ import annotations

import importlib
import json
import traceback
from pathlib import Path
from typing import Any

from curvkit_core.host.assemble import load_core
from curvkit_core.host.discover import find_plugins
from curvkit_core.host.finding import Finding
from curvkit_core.host.loader import load_plugin
from curvkit_core.host.records import PluginRecord

_HOST = str(Path(__file__).resolve().parent)
MAX_FRAMES = 20


def measure(namespace: str, dist: str, destination: str) -> None:
    """Load the plugin of a namespace and distribution, and write the outcome as JSON.

    Parameters
    ----------
    namespace, dist : str
        ``core`` is core's own part.
    destination : str
        A file, since what the plugin prints would spoil a pipe.
    """
    if namespace == "core" and dist == "curvkit-core":
        outcome = _outcome(load_core())
    else:
        found = [c for c in find_plugins() if (c.namespace, c.dist) == (namespace, dist)]
        assert found, f"{namespace!r} of {dist!r} is not found in the child, though it was in the parent"
        outcome = _outcome(load_plugin(found[0]))
    Path(destination).write_text(json.dumps(outcome), encoding="utf-8")


def _outcome(record: PluginRecord) -> dict[str, Any]:
    findings = [*record.findings, *_bad_requirements(record)]
    return {
        "status": record.status,
        "stage": record.stage,
        "api": record.api,
        "reason": record.reason,
        "details": list(record.details),
        "hint": record.hint,
        "import_ms": record.import_ms,
        "findings": [
            {"stage": f.stage, "code": f.code, "text": f.text, "detail": f.detail, "mend": f.mend} for f in findings
        ],
        "traceback": [] if record.exception is None else traceback_lines(record.exception),
        "provides": [[spec.kind, spec.name] for spec in record.specs],
        "observes": record.observes,
    }


def traceback_lines(error: BaseException) -> list[str]:
    """Return a traceback's lines without the host's own frames and the import system's."""
    shown = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = shown
    while part is not None:
        part.stack[:] = [frame for frame in part.stack if not _is_ours(frame.filename)][-MAX_FRAMES:]
        part = part.__cause__ or part.__context__
    lines = [line for block in shown.format() for line in block.rstrip("\n").split("\n")]
    kept = [line for line in lines if line and not line.startswith("Traceback (most recent call last)")]
    return [line if line.startswith("  ") else f"  {line}" for line in kept]


def _is_ours(filename: str) -> bool:
    if filename.startswith(("<frozen", _HOST)) or filename == importlib.__file__:
        return True
    return Path(filename).parent.name == "pluggy"


def _bad_requirements(record: PluginRecord) -> list[Finding]:
    from packaging.requirements import InvalidRequirement, Requirement

    findings = []
    for spec in record.specs:
        for text in spec.requires:
            try:
                Requirement(text)
            except InvalidRequirement:
                findings.append(
                    Finding(
                        stage="validate",
                        code="bad-requirement",
                        text=f"{spec.name} requires {text!r}, which is not a PEP 508 string",
                        mend=f"the author of {record.dist} must correct it",
                    )
                )
    return findings
