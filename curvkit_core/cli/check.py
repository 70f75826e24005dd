"""``curvkit check PLUGIN``: hold a plugin, or one component, to the laws of its kind."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from curvkit_core.host.texts import ascii_only

if TYPE_CHECKING:
    from curvkit_core.testing import CheckResult

SCHEMA = 1
SHOWN_ALONE = 2  # skips of one reason that are told one by one
SHOWN = {"fail": "FAIL", "xpass": "FAIL", "skip": "skip", "xfail": "expected failure"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", metavar="PLUGIN", help="a plugin (hf), or one component (hf/causal-lm)")
    parser.add_argument("--json", action="store_true", help=f"print JSON, schema {SCHEMA}, and nothing else")
    parser.add_argument(
        "--cases",
        metavar="MODULE:ATTR",
        help="what to try the components on, as curvkit_core.testing.Case; by default what the plugin names itself",
    )
    parser.add_argument("--only", metavar="CHECK", action="append", help="run this check alone; may be given again")
    parser.add_argument("--laws", action="store_true", help="list the checks and their laws, and run none")


def main(args: argparse.Namespace) -> int:
    """Run the checks; 0 where all that ran hold, else 1."""
    from curvkit_core.host.registry import default_registry

    sys.path.insert(0, "")  # --cases may name a module of the folder the command is run in
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a component prints is not the report's
            registry = default_registry()
            if args.laws:
                text, code = _laws(args.name, registry), 0
            else:
                results = _run(args, registry)
                text = _as_json(args.name, results) if args.json else _as_text(results)
                code = 1 if any(result.failed for result in results) else 0
    finally:
        sys.path.remove("")
    print(text)
    return code


def _run(args: argparse.Namespace, registry: Any) -> list[CheckResult]:
    from curvkit_core.testing import check_plugin, run_checks

    checker = run_checks if "/" in args.name else check_plugin
    return list(checker(args.name, cases=args.cases, registry=registry, only=args.only))


def _laws(name: str, registry: Any) -> str:
    from curvkit_core.testing.running import checks_named

    return _lines(f"{check.name:<40} since {check.since}  {check.law}" for check in checks_named(name, registry))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(ascii_only(line) for line in lines)


def _as_text(results: list[CheckResult]) -> str:
    from curvkit_core.testing import summary

    lines: list[str] = []
    places = list(dict.fromkeys((result.component, result.case) for result in results))
    width = max(len(_place(*place)) for place in places)
    for place in places:
        own = [result for result in results if (result.component, result.case) == place]
        count = Counter(result.status for result in own)
        parts = [f"{count['pass']} passed"]
        bad = count["fail"] + count["xpass"]
        parts += [f"{bad} failed"] if bad else []
        parts += [f"{count['skip']} skipped"] if count["skip"] else []
        parts += [f"{count['xfail']} failed as expected"] if count["xfail"] else []
        lines.append(f"{_place(*place):<{width}}  {', '.join(parts)}")
        alike = Counter(result.reason for result in own if result.status == "skip")
        many = [reason for reason, number in alike.items() if number > SHOWN_ALONE]
        lines += [f"  skip  {alike[reason]} checks: {' '.join(reason.split())}" for reason in many]
        for result in own:
            if result.status != "pass" and not (result.status == "skip" and result.reason in many):
                lines.append(f"  {SHOWN[result.status]}  {result.name}: {' '.join(result.reason.split())}")
            if result.failed:
                lines.append(f"    law: {result.law}")
                numbers = ", ".join(f"{what} = {value:.4g}" for what, value in result.numbers.items())
                lines += [f"    numbers: {numbers}"] if numbers else []
    return _lines([*lines, summary(results)])


def _place(component: str, case: str) -> str:
    return f"{component} ({case})" if case else component


def _as_json(name: str, results: list[CheckResult]) -> str:
    rows = [
        {
            "component": result.component,
            "case": result.case,
            "check": result.name,
            "status": result.status,
            "law": result.law,
            "reason": result.reason,
            "seconds": round(result.seconds, 4),
            "numbers": {what: value if math.isfinite(value) else repr(value) for what, value in result.numbers.items()},
        }
        for result in results
    ]
    count = Counter(result.status for result in results)
    document = {"schema": SCHEMA, "checked": name, "counts": dict(sorted(count.items())), "results": rows}
    return json.dumps(document, indent=1)
