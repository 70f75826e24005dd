"""``curvkit config check FILE``: everything that a run does before it builds the problem."""

from __future__ import annotations

import argparse

from curvkit_core.cli.run import add_set_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    check = actions.add_parser("check", help="check a run file", description="Check a run file without running it.")
    check.add_argument("file", metavar="FILE", help="the run file (TOML)")
    add_set_argument(check)


def main(args: argparse.Namespace) -> int:
    """Say what the file would run, or all that is wrong with it."""
    from curvkit_core.host.registry import default_registry
    from curvkit_core.runs.plan import make_plan
    from curvkit_core.runs.run_file import read_run_file

    plan = make_plan(read_run_file(args.file, args.settings), default_registry(), source=args.file)
    print(f"{args.file}: ok, {plan.num_jobs} run{'s' if plan.num_jobs != 1 else ''}")
    print(f"  problem    {plan.problem.name} ({plan.problem.provider})")
    for operator in plan.operators:
        print(f"  operator   {operator.label} ({operator.component.provider})")
    for algorithm in plan.algorithms:
        on = ", ".join(plan.operators[i].label for i in algorithm.on)
        print(f"  algorithm  {algorithm.component.name} ({algorithm.component.provider}) on {on}")
    print(f"  backend    {plan.backend.name} ({plan.backend.provider})")
    for note in plan.notes:
        print(f"  auto       {note}")
    return 0
