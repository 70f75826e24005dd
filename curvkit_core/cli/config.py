"""``curvkit config check FILE`` and ``config show FILE``: what a run file means, before anything is built."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from curvkit_core.cli.run import add_set_argument

if TYPE_CHECKING:
    from curvkit_core.runs.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    check = actions.add_parser("check", help="check a run file", description="Check a run file without running it.")
    show = actions.add_parser(
        "show", help="print a run file as it is read", description="Print a run file, settings applied."
    )
    show.add_argument("--resolved", action="store_true", help="with every name in full, every option and its default")
    for action in (check, show):
        action.add_argument("file", metavar="FILE", help="the run file (TOML)")
        add_set_argument(action)


def main(args: argparse.Namespace) -> int:
    """Say what the file would run, or all that is wrong with it; or print it."""
    from curvkit_core.config import to_toml
    from curvkit_core.host.registry import default_registry
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.run_file import read_run_file

    data = read_run_file(args.file, args.settings)
    plan = make_plan(data, default_registry(), source=args.file)
    if args.action == "check":
        _print_checked(plan, args.file)
    elif args.resolved:
        from curvkit_core.runs.resolved import resolved_tables

        print(to_toml(resolved_tables(plan)), end="")
    else:
        print(to_toml(data), end="")
    return 0


def _print_checked(plan: Plan, file: str) -> None:
    print(f"{file}: ok, {plan.num_jobs} run{'s' if plan.num_jobs != 1 else ''}")
    print(f"  problem    {plan.problem.name} ({plan.problem.provider})")
    for operator in plan.operators:
        print(f"  operator   {operator.label} ({operator.component.provider})")
    for algorithm in plan.algorithms:
        on = ", ".join(plan.operators[i].label for i in algorithm.on)
        print(f"  algorithm  {algorithm.component.name} ({algorithm.component.provider}) on {on}")
    print(f"  backend    {plan.backend.name} ({plan.backend.provider})")
    for note in plan.notes:
        print(f"  auto       {note}")
