"""The command line: a static table of commands, each imported only when it is the one that was asked for.

``--help`` and ``--version`` load no plugin and nothing beyond argparse.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from curvkit_core.errors import CurvkitError
from curvkit_core.version import __version__

# command -> (module, summary); the summary stands here so that --help imports no command
COMMANDS = {
    "list-plugins": ("curvkit_core.cli.list_plugins", "list the plugins that are installed, and why one is not usable"),
    "doctor": ("curvkit_core.cli.doctor", "look for the causes: tracebacks, stale metadata, slow imports"),
    "run": ("curvkit_core.cli.run", "carry out a run file"),
    "show": ("curvkit_core.cli.show", "print what a run found, again"),
    "plot": ("curvkit_core.cli.plot", "draw a run's figures and its page again"),
    "compare": ("curvkit_core.cli.compare", "set runs side by side: differences with errors, overlaps, densities"),
    "explain": ("curvkit_core.cli.explain", "show a component's options, types, defaults and documentation"),
    "config": ("curvkit_core.cli.config", "check a run file without running it, or show it with every default"),
    "completion": ("curvkit_core.cli.completion", "print a completion script for bash, zsh or fish"),
    "check": ("curvkit_core.cli.check", "hold a plugin's components to the laws of their kinds"),
    "new-plugin": ("curvkit_core.cli.new_plugin", "write a small, complete plugin package to start from"),
}
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the program's name; by default the process's own.

    Returns
    -------
    int
        The exit code: 2 for wrong input, with its message on stderr and no traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader has gone: keep the interpreter from failing once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("curvkit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except CurvkitError as error:
        print(error, file=sys.stderr)
        return USAGE_ERROR
    return code


def _run(arguments: list[str]) -> int:
    collecting = gc.isenabled()
    gc.disable()  # imports make no garbage, and looking for it among what they make costs 5 ms of every start
    try:
        args, module = _parsed(arguments)
    except SystemExit as end:  # argparse's way to end after --help, --version and wrong input
        return end.code if isinstance(end.code, int) else 0
    finally:
        if collecting:
            gc.enable()
    return int(module.main(args))


def _parsed(arguments: list[str]) -> tuple[argparse.Namespace, Any]:
    """Return the arguments and the command's module, with the plugin filters set."""
    command = _command_in(arguments)
    parser, module = _parser(command)
    if command is not None and command not in COMMANDS:
        from curvkit_core.host.near_names import did_you_mean

        near = did_you_mean(command, COMMANDS)
        parser.error(f"unknown command {command!r}{near}\ncommands: {', '.join(COMMANDS)}")
    args = parser.parse_args(arguments)
    if module is None:
        parser.print_help(sys.stderr)
        parser.exit(USAGE_ERROR)
    _set_filters(args, parser)
    return args, module


def _command_in(arguments: Sequence[str]) -> str | None:
    """Return the first word that is neither an option nor a global option's value."""
    waiting = False
    for word in arguments:
        if waiting:
            waiting = False
        elif word in ("--plugins", "--block-plugins"):
            waiting = True
        elif not word.startswith("-"):
            return word
    return None


def _parser(command: str | None) -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser with the arguments of one command, and that command's module."""
    flags = _global_flags()
    parser = argparse.ArgumentParser(
        prog="curvkit",
        description="Matrix-free curvature of PyTorch models.",
        parents=[flags],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"curvkit-core {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    module: Any = None
    known = command in COMMANDS
    for name, (module_name, summary) in COMMANDS.items():
        if known and name != command:
            continue  # each parser costs a third of a millisecond
        sub = commands.add_parser(name, help=summary, parents=[flags], allow_abbrev=False)
        if name == command:
            module = importlib.import_module(module_name)
            sub.description = f"{summary[0].upper()}{summary[1:]}."
            module.add_arguments(sub)
    return parser, module


def _global_flags() -> argparse.ArgumentParser:
    """Return the options that may stand before or after the command; SUPPRESS keeps the two from undoing each other."""
    flags = argparse.ArgumentParser(add_help=False)
    group = flags.add_argument_group("plugins")
    group.add_argument(
        "--plugins",
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="load only these, by namespace or distribution, separated by commas (over CURVKIT_PLUGINS)",
    )
    group.add_argument(
        "--block-plugins",
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="do not load these (over CURVKIT_BLOCK_PLUGINS)",
    )
    group.add_argument("--no-plugins", action="store_true", default=argparse.SUPPRESS, help="load core only")
    return flags


def _set_filters(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Hand the global options to the default registry; nothing is loaded yet."""
    from curvkit_core.host.filters import split_names
    from curvkit_core.host.registry import configure_default

    allow = getattr(args, "plugins", None)
    block = getattr(args, "block_plugins", None)
    none = getattr(args, "no_plugins", False)
    if none and allow is not None:
        parser.error("--no-plugins and --plugins exclude each other")
    configure_default(
        allow=() if none else None if allow is None else split_names(allow),
        block=None if block is None else split_names(block),
        allow_from="--no-plugins" if none else "--plugins",
        block_from="--block-plugins",
        warn=lambda text: print(f"warning: {text}", file=sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
