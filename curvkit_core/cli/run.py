"""``curvkit run FILE``: carry out a run file and print what it found."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvkit_core.host.registry import Registry
    from curvkit_core.runs.log import RunLog
    from curvkit_core.runs.outcome import Run
    from curvkit_core.runs.preparation import Job, Prepared
    from curvkit_core.runs.run_state import RunState

CANNOT_WRITE = 1
BUDGET_SPENT = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("file", metavar="FILE", help="the run file (TOML)")
    add_set_argument(parser)
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/<name of FILE>-<number>)")
    parser.add_argument("--force", action="store_true", help="replace the run that DIR holds, once this one is whole")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the unfinished run that DIR holds (without --out: with the latest of FILE); else start",
    )
    parser.add_argument("--no-plots", action="store_true", help="draw no figures")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code run that comes with a model; a file cannot allow it"
    )


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
    """Plan, prepare, execute, record and report; nothing is written before a product is about to be made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _planned(args, collecting=collecting)
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def _planned(args: argparse.Namespace, *, collecting: bool) -> int:
    from curvkit_core.host.registry import default_registry
    from curvkit_core.problem.remote_code import allow_remote_code
    from curvkit_core.runs.destination import FINISHED, Destination, folder_kind
    from curvkit_core.runs.log import RunLog
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.preparation import prepare
    from curvkit_core.runs.progress import progress_for
    from curvkit_core.runs.ranks import follow, follower_rank, one_plan
    from curvkit_core.runs.run_file import read_run_file
    from curvkit_core.runs.run_state import opened_state, read_started

    data = read_run_file(args.file, args.settings)
    if follower_rank():
        _set_imports_aside(collecting=collecting)
        return follow(
            data,
            default_registry(),
            source=args.file,
            say=lambda text: print(f"curvkit: {text}", file=sys.stderr),
            trust_remote_code=args.trust_remote_code,
        )
    destination = Destination.choose(args.file, args.out, force=args.force, resume=args.resume, tables=data)
    if args.resume and not args.force and folder_kind(destination.folder) == FINISHED:
        return _nothing_to_resume(destination.folder, data)
    registry = default_registry()
    log = RunLog(progress_for(sys.stderr))
    seeds = read_started(destination.folder, data).seeds if destination.resume else None
    plan, backend = one_plan(make_plan(data, registry, source=args.file, seeds=seeds), registry)
    _set_imports_aside(collecting=collecting)
    with allow_remote_code(args.trust_remote_code):
        prepared = prepare(plan, registry, backend=backend, stage=lambda what: log.say(f"building {what}"))
    for note in prepared.notes:
        log.say(note)
    try:
        with opened_state(destination, prepared) as state:
            log.keep_in(state.log)
            if state.resumed:
                log.say(f"going on with the run in {state.folder}")
            return _carried_out(prepared, state, registry, log, plots=not args.no_plots)
    except OSError as error:  # a full disk, a folder that cannot be written
        log.say(f"error: {error}")
        return CANNOT_WRITE


def _set_imports_aside(*, collecting: bool) -> None:
    """Go on collecting garbage, but not among what was imported.

    torch and the plugins are half a million objects: looking through them again and again, first as they are imported
    and then during the run, takes a second.
    """
    gc.freeze()
    if collecting:
        gc.enable()


def _carried_out(prepared: Prepared, state: RunState, registry: Registry, log: RunLog, *, plots: bool) -> int:
    from curvkit_core.config import ConfigError
    from curvkit_core.runs.execution import execute
    from curvkit_core.runs.outcome import Run
    from curvkit_core.runs.record import plan_record

    run = Run(plan=plan_record(prepared.plan, prepared), folder=state.folder, problem=prepared.problem.describe())
    try:
        run = execute(prepared, run, registry, log, state=state)
    except (ConfigError, OSError):
        finished = state.num_finished
        if finished:
            log.say(f"{finished} of {len(prepared.jobs)} jobs are finished and kept: --resume --out {state.folder}")
        raise
    if not run.results:
        why = "interrupted" if run.interrupted else f"the budget of {run.stopped} was spent"
        log.say(f"{why} before there was any result; nothing was written")
        return INTERRUPTED if run.interrupted else BUDGET_SPENT
    return _finish(run, prepared.jobs, state, registry, log, plots=plots)


def _finish(run: Run, jobs: Sequence[Job], state: RunState, registry: Registry, log: RunLog, *, plots: bool) -> int:
    """Write the folder, tell the observers, print the report: the numbers may have cost hours, so it comes always."""
    import attrs

    from curvkit_core.runs.destination import Destination
    from curvkit_core.runs.figures import draw_figures
    from curvkit_core.runs.record import in_folder, write_run
    from curvkit_core.runs.report import report_sections
    from curvkit_core.runs.rescue import rescued
    from curvkit_core.runs.table import print_sections

    def figures(folder: Path) -> tuple[str, ...]:
        return draw_figures(run, folder, log.say) if plots else ()

    if run.stopped:
        why = "interrupted" if run.interrupted else f"the budget of {run.stopped} is spent"
        log.say(f"{why}: what was found so far is kept; --resume --out {run.folder} goes on")
    try:
        write_run(run, Destination(folder=run.folder, force=True), log.lines, figures, state=state)
    except (OSError, TypeError, ValueError) as error:  # a full disk, a plugin's result of things that have no file
        print_sections(report_sections(run), sys.stdout)
        log.say(f"error: the run's files could not be written: {error}")
        place = rescued(run, jobs, state, log.lines) if isinstance(error, OSError) else None
        if place is not None:
            log.say(f"the run's files are in {place} instead: move them to a place that lasts")
        return CANNOT_WRITE
    run = attrs.evolve(run, results=in_folder(run.results, run.folder))
    registry.observers.call_run_finished(run)
    print_sections(report_sections(run), sys.stdout)
    names = sorted(entry.name for entry in run.folder.iterdir())
    others = [name for name in names if not name.endswith((".png", ".svg"))]
    drawn = sum(name.endswith(".png") for name in names)
    figures_too = f", {drawn} figure{'s' if drawn > 1 else ''} (PNG and SVG)" if drawn else ""
    print(f"\nwritten to {run.folder}: {', '.join(others)}{figures_too}")
    return 0 if not run.stopped else INTERRUPTED if run.interrupted else BUDGET_SPENT


def _nothing_to_resume(folder: Path, tables: Mapping[str, Any]) -> int:
    """A script that calls `run --resume` until all is done finds it done; another run's folder is refused."""
    from curvkit_core.runs.run_state import check_finished

    check_finished(folder, tables)
    print(f"curvkit: the run in {folder} is finished, there is nothing to resume", file=sys.stderr)
    return 0
