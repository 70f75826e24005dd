"""``curvkit plot RUN``: draw a run's figures and its page again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", metavar="DIR", help="where to (default: the run's folder)")


def main(args: argparse.Namespace) -> int:
    """Write report.html, and PNG and SVG figures where the extra `plot` is installed."""
    from curvkit_core.config import ConfigError, Mistake
    from curvkit_core.results.atomic import write_text
    from curvkit_core.runs.figures import draw_figures
    from curvkit_core.runs.opening import opened_for_reading
    from curvkit_core.runs.report import report_html

    run = opened_for_reading(args.run)
    folder = Path(args.out) if args.out is not None else run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.html", report_html(run))
        drawn = draw_figures(run, folder, lambda text: print(f"curvkit: {text}", file=sys.stderr))
    except OSError as error:
        raise ConfigError([Mistake("", f"cannot be written: {error}")], str(folder)) from error
    for name in ("report.html", *drawn):
        print(folder / name)
    return 0
