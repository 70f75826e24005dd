"""``curvkit new-plugin NAME --kind KIND``: a small, complete package to start from."""

from __future__ import annotations

import argparse

from curvkit_core.scaffold.kinds import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", metavar="NAME", help="the plugin's namespace: acme gives acme/... in curvkit-acme")
    parser.add_argument("--kind", metavar="KIND", required=True, help=f"what it offers: {', '.join(KINDS)}")
    parser.add_argument(
        "--out", metavar="DIR", help="the folder to write, which must not exist (default: curvkit-NAME)"
    )


def main(args: argparse.Namespace) -> int:
    """Write the package and say what to do next."""
    from curvkit_core.scaffold import new_plugin

    place = new_plugin(args.name, args.kind, args.out)
    print(f"wrote {place}: the distribution curvkit-{args.name} with {args.name}/{KINDS[args.kind].stem}")
    print("next:")
    where = place if place.is_absolute() else f"./{place}"  # pip takes a bare name for one on an index
    print(f'  pip install -e "{where}[test]"')
    print("  curvkit list-plugins")
    print(f"  curvkit check {args.name}")
    return 0
