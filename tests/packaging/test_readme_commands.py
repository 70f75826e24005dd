"""The README's two commands are the ones that are run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s "


def readme_commands() -> list[str]:
    """Every line of a fenced block of the README that sets up an environment."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python3 -m venv")]


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_readme_has_the_command(session):
    """One line does the set-up and runs the session."""
    assert readme_commands().count(SETUP + session) == 1


def test_ci_runs_the_readme_test_command_as_it_stands():
    """`.ci/run` holds that line, with nothing before it, and stops if it fails."""
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert f"{SETUP}tests || exit 1" in lines


def test_ci_script_is_executable_bash():
    """It runs as a program and parses."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_ci_sessions_exist():
    """Every session that `.ci/run` and the workflow name is one of the noxfile's."""
    defined = set(re.findall(r"^@nox\.session\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    text = (ROOT / ".ci/run").read_text() + (ROOT / ".github/workflows/ci.yml").read_text()
    text = re.sub(r"\$\{\{.*?\}\}", "", text)
    named = {re.sub(r'"|\(.*\)', "", word) for tail in re.findall(r"nox -s ([^|\n]+)", text) for word in tail.split()}
    assert named <= defined
    assert {"tests", "lint", "core", "broken", "acme"} <= named
