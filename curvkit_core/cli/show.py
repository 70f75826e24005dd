"""``curvkit show RUN``: print what a run found, again."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("--json", action="store_true", help="print result.json as it is, for programs")


def main(args: argparse.Namespace) -> int:
    """Print the report of a stored run."""
    from curvkit_core.runs.opening import opened_for_reading
    from curvkit_core.runs.report import report_sections
    from curvkit_core.runs.table import print_sections

    run = opened_for_reading(args.run)
    if args.json:
        print((run.folder / "result.json").read_text(encoding="utf-8"), end="")
        return 0
    if run.stopped:
        print(f"This run is not finished: stopped by {run.stopped}. --resume --out {run.folder} goes on.\n")
    print_sections(report_sections(run), sys.stdout)
    return 0
