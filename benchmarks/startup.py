"""What starting costs: CPU time of `list-plugins` and of `--help` as ratios to a bare import line, in the same run.

    python benchmarks/startup.py [--repeat 15] [--json]

Each repetition runs the commands one after the other, so that a busy machine slows all of them alike. The figures are
medians over the repetitions of a child's user plus system time, with the quartiles as the spread; a ratio is the median
of the ratios within a repetition. Bytecode is kept in a folder of the run's own, so that it is there for both sides
whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile

FLOOR = "import argparse, pluggy, attrs, importlib.metadata"
LIMIT = 1.3
MAIN = "import sys; from curvkit_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {
    "bare imports": ["-c", FLOOR],
    "--help": ["-c", MAIN, "--help"],
    "--version": ["-c", MAIN, "--version"],
    "list-plugins": ["-c", MAIN, "list-plugins"],
    "list-plugins, core only": ["-c", MAIN, "list-plugins", "--no-plugins"],
}


def cpu_seconds(arguments: list[str], environ: dict[str, str]) -> float:
    """Return the user plus system time of one child."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_CLOSE, quiet)]
    child = os.posix_spawn(sys.executable, [sys.executable, *arguments], environ, file_actions=actions)
    os.close(quiet)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        msg = f"{' '.join(arguments)} ended with code {code}: expected 0."
        raise RuntimeError(msg)
    return usage.ru_utime + usage.ru_stime


def measure(repeat: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each command, one per repetition; a first round, unmeasured, writes the .pyc files."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="curvkit-startup-") as folder:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for arguments in COMMANDS.values():
            cpu_seconds(arguments, environ)
        for _ in range(repeat):
            for name, arguments in COMMANDS.items():
                times[name].append(cpu_seconds(arguments, environ))
    return times


def summarize(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median and quartiles of the times and of their ratios to the bare imports', a row a command."""
    rows = {}
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
        ratios = [one / floor for one, floor in zip(seconds, times["bare imports"], strict=True)]
        low_ratio, ratio, high_ratio = statistics.quantiles(ratios, n=4, method="inclusive")
        rows[name] = {
            "ms": 1e3 * middle,
            "low_ms": 1e3 * low,
            "high_ms": 1e3 * high,
            "ratio": ratio,
            "low_ratio": low_ratio,
            "high_ratio": high_ratio,
        }
    return rows


def main() -> int:
    """Print the table; 1 if `list-plugins` or `--help` is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15, help="repetitions (default: 15)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.repeat < 2:
        parser.error(f"--repeat {args.repeat}: expected at least 2, the spread needs them")
    rows = summarize(measure(args.repeat))
    over = [name for name in ("--help", "list-plugins") if rows[name]["ratio"] > LIMIT]
    if args.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"schema": 1, "repeat": args.repeat, "limit": LIMIT, **machine, "rows": rows}, indent=2))
    else:
        print(f"CPU time of a child process, median of {args.repeat} (quartiles), Python {platform.python_version()}")
        for name, row in rows.items():
            spread = f"({row['low_ms']:.1f} .. {row['high_ms']:.1f})"
            ratio = f"x {row['ratio']:.2f} ({row['low_ratio']:.2f} .. {row['high_ratio']:.2f})"
            print(f"  {name:<24} {row['ms']:6.1f} ms {spread:<17} {ratio}")
        print(f"limit x {LIMIT}: {'above it: ' + ', '.join(over) if over else 'kept'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
