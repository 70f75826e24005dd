"""`curvkit config check`: everything that a run does before it builds the problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from curvkit_core.cli.main import main
from curvkit_core.host.registry import configure_default

GOOD = """\
schema = 1
[problem]
kind = "core/python"
factory = "boom:build"
[[operator]]
kind = "core/ggn"
[[operator]]
kind = "core/ggn"
params = ["fc1.*"]
[[algorithm]]
kind = "eigsh"
k = 100000
[[algorithm]]
kind = "core/trace"
on = ["ggn"]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that must not be imported, beside a run file that names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boom.py").write_text("raise SystemExit('the problem was built')\n")
    (tmp_path / "run.toml").write_text(GOOD)
    yield tmp_path
    configure_default()


def check(*arguments: str) -> int:
    return main(["--no-plugins", "config", "check", *arguments])


def test_good_file_lists_what_it_would_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The problem is not built, nothing is written; every name is shown resolved, with who provides it."""
    assert check("run.toml") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run.toml: ok, 4 runs"
    shown = [line.split(" (curvkit-core ")[0].split() for line in lines[1:6]]
    assert shown == [
        ["problem", "core/python"],
        ["operator", "core/ggn"],
        ["operator", "core/ggn[fc1.*]"],
        ["algorithm", "core/eigsh"],
        ["algorithm", "core/trace"],
    ]
    assert lines[4].endswith(" on core/ggn, core/ggn[fc1.*]")
    assert sorted(p.name for p in here.iterdir()) == ["boom.py", "run.toml"]


def test_mistakes_come_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The same error as `run` gives, on stderr, all lines at once."""
    settings = ["algorithm.0.k=0", 'algorithm.1.on=["hessian"]', "schema=3"]
    assert check("run.toml", *(word for setting in settings for word in ("--set", setting))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "run.toml: 3 errors" in shown.err
    for part in ("$.schema", "$.algorithm[0].k", "$.algorithm[1].on[0]  'hessian' is no [[operator]] of this file"):
        assert part in shown.err
    assert "Traceback" not in shown.err


def test_check_needs_an_action_and_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's own usage error, exit code 2."""
    assert main(["config"]) == 2
    assert "ACTION" in capsys.readouterr().err
