"""Starting: what is not imported, exit codes of the command line itself, and that each command is found lazily."""

import importlib
import io
import os
import subprocess
import sys

import pytest

from curvkit_core import __version__
from curvkit_core.cli import main as cli
from curvkit_core.errors import CurvkitError

HEAVY = {"torch", "numpy", "cattrs", "triton", "transformers", "rich", "scipy", "matplotlib", "safetensors"}
PROGRAM = """
import sys
from curvkit_core.cli.main import main
code = main(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def modules_after(*arguments):
    """The modules that a child has imported after a command that succeeds."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CURVKIT_")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    return set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list-plugins", "--help"], ["list-plugins"]])
def test_start_imports_nothing_heavy(arguments):
    """With whatever plugins are installed here; nor `packaging`, which only requirements need."""
    loaded = modules_after(*arguments)
    assert not loaded & (HEAVY | {"packaging.requirements", "difflib", "json"})


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_load_no_plugin(arguments):
    """Nor the host, nor pluggy, nor attrs."""
    loaded = modules_after(*arguments)
    assert not [name for name in loaded if name.startswith(("curvkit_core.host", "curvkit_hf", "pluggy", "attr"))]
    assert not [name for name in loaded if name.startswith("curvkit_core.cli.") and name != "curvkit_core.cli.main"]


def test_list_plugins_imports_no_other_command():
    """The table holds the summaries."""
    loaded = {name for name in modules_after("list-plugins") if name.startswith("curvkit_core.cli.")}
    assert loaded == {"curvkit_core.cli.main", "curvkit_core.cli.list_plugins"}


def test_check_of_heavy_modules_can_fail():
    """Negative control: a command that computes does import torch."""
    program = PROGRAM.replace("code = main(sys.argv[1:])", "import torch; code = 0")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" in done.stderr.split()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_of_the_table_is_there(command):
    """With its two functions."""
    module = importlib.import_module(cli.COMMANDS[command][0])
    assert callable(module.add_arguments)
    assert callable(module.main)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command(command, capsys):
    """Exit code 0."""
    assert run(command, "--help") == 0
    assert f"usage: curvkit {command}" in capsys.readouterr().out


def run(*arguments):
    """The exit code, also where argparse ends the program."""
    try:
        return cli.main(list(arguments))
    except SystemExit as end:
        return end.code


def test_version(capsys):
    """The distribution and its version."""
    assert run("--version") == 0
    assert capsys.readouterr().out == f"curvkit-core {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list-plugin"], "unknown command 'list-plugin'; did you mean 'list-plugins'?"),
        (["zzz"], "unknown command 'zzz'"),
        (["--plugins", "list-plugins", "zzz"], "unknown command 'zzz'"),
        (["list-plugins", "--jsn"], "unrecognized arguments: --jsn"),
        (["list-plugins", "extra"], "unrecognized arguments: extra"),
        (["--plugins"], "expected one argument"),
        (["list-plugins", "--plugins", "a", "--no-plugins"], "--no-plugins and --plugins exclude each other"),
        (["doctor", "--timeout", "soon"], "invalid float value: 'soon'"),
        ([], "usage: curvkit"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, text, capsys):
    """With usage and the reason on stderr, and no traceback."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, text in err, "Traceback" in err) == ("", True, False), err


class Command:
    """A stand-in for a command's module."""

    def __init__(self, action):
        self.action = action

    def add_arguments(self, parser):
        """None."""

    def main(self, args):
        """Do the one thing."""
        return self.action()


def fail(error):
    """Raise what it is given."""
    raise error


@pytest.mark.parametrize(
    ("action", "code", "text"),
    [
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: fail(CurvkitError("run.toml: 3 errors")), 2, "run.toml: 3 errors\n"),
        (lambda: fail(KeyboardInterrupt()), 130, "curvkit: interrupted\n"),
    ],
)
def test_exit_codes_of_a_command(monkeypatch, capsys, action, code, text):
    """An error of ours is its text; Ctrl-C is 130."""
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Command(action))
    assert run("run") == code
    assert capsys.readouterr().err == text


def test_other_errors_are_not_hidden(monkeypatch):
    """A mistake of ours keeps its traceback."""
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Command(lambda: fail(ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        run("run")


def test_closed_pipe_is_no_traceback():
    """`curvkit list-plugins | head -1`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "curvkit_core", "list-plugins", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    error = child.stderr.read()
    child.stderr.close()
    assert (child.wait(), error) == (cli.BROKEN_PIPE, b"")


def test_module_is_the_whole_command_line():
    """`python -m curvkit_core` and the script are the same."""
    done = subprocess.run([sys.executable, "-m", "curvkit_core", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: curvkit ")


def test_import_of_the_package_is_light():
    """Neither torch nor the host."""
    program = "import sys, curvkit_core; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY | {"curvkit_core.host", "pluggy", "attrs"})


def test_unknown_attribute_of_the_package_names_the_near_one():
    """As an AttributeError, so that `hasattr` works."""
    import curvkit_core

    with pytest.raises(AttributeError, match=r"has no attribute 'OperatorSpecs'; did you mean 'OperatorSpec'\?"):
        curvkit_core.OperatorSpecs  # noqa: B018
    assert not hasattr(curvkit_core, "_absent")


def test_flush_failure_counts_as_a_closed_pipe(monkeypatch):
    """The listing may fit the buffer, so that only the flush fails."""

    class Closed(io.StringIO):
        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["list-plugins", "--no-plugins"]) == cli.BROKEN_PIPE
