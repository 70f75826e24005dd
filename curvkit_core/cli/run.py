"""``curvkit run FILE``: carry out a run file and print what it found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry
    from curvkit_core.runs.execution import Run
    from curvkit_core.runs.log import RunLog
    from curvkit_core.runs.record import Destination

CANNOT_WRITE = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("file", metavar="FILE", help="the run file (TOML)")
    add_set_argument(parser)
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/<name of FILE>-<number>)")
    parser.add_argument("--force", action="store_true", help="replace the run that DIR holds")
    parser.add_argument("--no-plots", action="store_true", help="draw no figures")


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, which ``config check`` has too."""
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="set a value of FILE, as TOML has it: algorithm.0.k=20; may be given several times",
    )


def main(args: argparse.Namespace) -> int:
    """Plan, prepare, execute, record and report; nothing is written before all of it went well."""
    from curvkit_core.host.registry import default_registry
    from curvkit_core.runs.log import RunLog
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.preparation import prepare
    from curvkit_core.runs.progress import progress_for
    from curvkit_core.runs.record import Destination, plan_record
    from curvkit_core.runs.run_file import read_run_file

    data = read_run_file(args.file, args.settings)
    destination = Destination.choose(args.file, args.out, force=args.force)
    registry = default_registry()
    log = RunLog(progress_for(sys.stderr))
    plan = make_plan(data, registry, source=args.file)

    from curvkit_core.runs.execution import Run, execute

    prepared = prepare(plan, registry, stage=lambda what: log.say(f"building {what}"))
    for note in prepared.notes:
        log.say(note)
    run = Run(
        plan=plan_record(plan, prepared),
        folder=destination.folder,
        problem=prepared.problem.describe(),
    )
    run = execute(prepared, run, registry, log)
    if not run.results:
        log.say("interrupted before there was any result; nothing was written")
        return INTERRUPTED
    return _finish(run, destination, registry, log, plots=not args.no_plots)


def _finish(run: Run, destination: Destination, registry: Registry, log: RunLog, *, plots: bool) -> int:
    """Write the folder, tell the observers, print the report: the numbers may have cost hours, so it comes always."""
    import attrs

    from curvkit_core.runs.figures import draw_figures
    from curvkit_core.runs.record import write_run
    from curvkit_core.runs.report import report_sections
    from curvkit_core.runs.table import print_sections

    def figures(folder: Path) -> tuple[str, ...]:
        return draw_figures(run, folder, log.say) if plots else ()

    if run.interrupted:
        log.say("interrupted: what was found so far is kept")
    try:
        run = attrs.evolve(run, folder=write_run(run, destination, log.lines, figures))
    except (OSError, TypeError, ValueError) as error:  # a full disk, a plugin's result of things that have no file
        print_sections(report_sections(run), sys.stdout)
        log.say(f"error: the run's files could not be written: {error}")
        return CANNOT_WRITE
    registry.observers.call_run_finished(run)
    print_sections(report_sections(run), sys.stdout)
    names = sorted(entry.name for entry in run.folder.iterdir())
    others = [name for name in names if not name.endswith((".png", ".svg"))]
    drawn = sum(name.endswith(".png") for name in names)
    figures_too = f", {drawn} figure{'s' if drawn > 1 else ''} (PNG and SVG)" if drawn else ""
    print(f"\nwritten to {run.folder}: {', '.join(others)}{figures_too}")
    return INTERRUPTED if run.interrupted else 0
