"""``curvkit compare RUN RUN...``: what differs between runs, and whether the difference is larger than its error."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of two or more runs; the first is the base")
    parser.add_argument("--out", metavar="FILE", help="write a page with overlaid densities (.html)")


def main(args: argparse.Namespace) -> int:
    """Print differences with their errors and overlaps of eigenspaces; write a page where one is asked for."""
    from curvkit_core.config import ConfigError, Mistake
    from curvkit_core.results.atomic import write_text
    from curvkit_core.runs.comparison import compare_runs, comparison_html
    from curvkit_core.runs.opening import opened_for_reading
    from curvkit_core.runs.table import print_sections

    if len(args.runs) < 2:
        raise ConfigError([Mistake("", "expected the folders of two or more runs")], "compare")
    if args.out is not None and Path(args.out).suffix != ".html":
        raise ConfigError([Mistake("", f"expected a file that ends in .html, got {args.out!r}")], "--out")
    runs = [opened_for_reading(folder, vectors=True) for folder in args.runs]
    sections = compare_runs(runs)
    print_sections(sections, sys.stdout)
    if args.out is not None:
        try:
            write_text(args.out, comparison_html(runs, sections))
        except OSError as error:
            raise ConfigError([Mistake("", f"cannot be written: {error}")], args.out) from error
        print(f"\nwritten to {args.out}")
    return 0
