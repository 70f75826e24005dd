"""`curvkit check`: a report of passes, skips and failures, exit codes, JSON, cases from a string."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
from curvkit_core.testing import Case
CASES = [Case(component="core/ggn", truth=lambda problem: 0.5 * __import__("torch").eye(problem.parameters.n).double())]
"""


def curvkit(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "curvkit_core", "--no-plugins", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_a_component_that_passes(tmp_path: Path) -> None:
    """One line, and the sum."""
    done = curvkit("core/ggn", "--only", "operator-linear", "--only", "operator-symmetric", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = done.stdout.splitlines()
    assert first == "core/ggn  2 passed"
    assert last.startswith("2 passed, 0 failed, in ")


def test_a_failure_says_law_reason_and_numbers(tmp_path: Path) -> None:
    """Exit code 1; the cases come from a module of the folder."""
    (tmp_path / "my_cases.py").write_text(CASES)
    done = curvkit("core/ggn", "--only", "operator-dense-match", "--cases", "my_cases:CASES", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    text = done.stdout
    assert "FAIL  operator-dense-match: the relative gap is" in text
    assert "    law: The matrix, column by column" in text
    assert "    numbers: the truth's norm = " in text


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    done = curvkit("core", "--only", "plugin-loads", "--only", "loss-kernels", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["checked"]) == (1, "core")
    rows = {(row["component"], row["check"]): row for row in document["results"]}
    assert rows["core", "plugin-loads"]["status"] == "pass"
    assert rows["core/mse", "loss-kernels"]["status"] == "skip"
    assert rows["core/mse", "loss-kernels"]["reason"] == "it uses no kernels"
    assert document["counts"] == {"pass": 3, "skip": 2}


def test_laws_are_listed_and_none_is_run(tmp_path: Path) -> None:
    done = curvkit("core/single", "--laws", folder=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.startswith("backend-world ") and "since 0.1" in line for line in lines)
    assert len(lines) >= 6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cor",), "no plugin 'cor' is installed; did you mean 'core'"),
        (("core/gnn",), "component 'core/gnn' is unknown; did you mean 'core/ggn'"),
        (("core/ggn", "--only", "linear"), "core/ggn has no check 'linear'"),
        (("core/ggn", "--cases", "nowhere:CASES"), "the cases 'nowhere:CASES' failed at import"),
    ],
)
def test_slips_exit_with_two_and_no_traceback(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    done = curvkit(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_skips_of_one_reason_are_told_once_and_are_no_green_run_alone(tmp_path: Path) -> None:
    """Without a model: thirteen checks and one line; where nothing else ran, exit code 1."""
    (tmp_path / "no_cases.py").write_text("CASES = []\n")
    told = ["core/linear-cross-entropy", "--cases", "no_cases:CASES"]
    done = curvkit(*told, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks: its option 'body' has no default: hand in Case(component=" in done.stdout
    assert done.stdout.count("its option 'body'") == 1
    done = curvkit(*told, "--only", "loss-units", "--only", "loss-kernels", folder=tmp_path)
    assert done.returncode == 1
    assert "FAIL  ran-any: none of 2 checks ran" in done.stdout
