"""The run folder: what is in it, whole or not at all, and never over another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from curvkit_core import Registry
from curvkit_core.config import ConfigError
from curvkit_core.results import StoredResult
from curvkit_core.runs import Destination, Run, execute, load_run, make_plan, plan_record, prepare, write_run
from curvkit_core.runs.progress import QuietProgress


@pytest.fixture
def run(data: dict[str, Any], registry: Registry) -> Run:
    """Six results, two of a class that core does not know."""
    plan = make_plan(data, registry, source="run.toml")
    prepared = prepare(plan, registry)
    started = Run(plan=plan_record(plan, prepared), folder=Path("nowhere"), problem=prepared.problem.describe())
    return execute(prepared, started, registry, QuietProgress())


def test_folder_holds_plan_results_and_log(run: Run, here: Path) -> None:
    """plan.json, result.json, tensors and log, each as DESIGN has it; load_run gives the results back."""
    folder = write_run(run, Destination(folder=here / "out"), [{"event": "a"}, {"event": "b"}])
    names = ["log.jsonl", "plan.json", "report.html", "result.json", "result.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()] == ["a", "b"]
    plan = json.loads((folder / "plan.json").read_text())
    assert plan == json.loads(json.dumps(run.plan))
    assert plan["problem_facts"]["n"] == 6
    assert plan["parameter_names"] == ["head", "tail"]
    document = json.loads((folder / "result.json").read_text())
    assert document["schema"] == 1
    assert [(row["operator"], row["algorithm"]) for row in document["runs"]][:2] == [
        ("core/hessian", "core/eigsh"),
        ("core/hessian", "core/trace"),
    ]
    eigenvalues = document["runs"][0]["result"]["eigenvalues"]
    assert eigenvalues == run.results[0].result.eigenvalues.tolist()
    loaded = load_run(folder)
    assert [r.label for r in loaded] == [r.label for r in run.results]
    assert torch.equal(loaded[3].result.eigenvectors, run.results[3].result.eigenvectors)
    assert loaded[3].params == ("tail",)
    assert isinstance(loaded[2].result, StoredResult)
    assert loaded[2].result["quotient"] == run.results[2].result.quotient
    own = load_run(folder, types=[type(run.results[2].result)])[2].result
    assert own.quotient == run.results[2].result.quotient


def test_folders_are_numbered_in_the_current_directory(run: Run, here: Path) -> None:
    """runs/<stem>-<number>, one above the largest; a number taken meanwhile is passed over."""
    (here / "runs" / "digits-7").mkdir(parents=True)
    (here / "runs" / "digits-x").mkdir()
    (here / "runs" / "other-9").mkdir()
    destination = Destination.choose("some/where/digits.toml", None)
    assert destination.folder == Path("runs/digits-8")
    (here / "runs" / "digits-8").mkdir()
    (here / "runs" / "digits-8" / "theirs").write_text("1")
    assert write_run(run, destination, []) == Path("runs/digits-9")
    assert [p.name for p in (here / "runs" / "digits-8").iterdir()] == ["theirs"]


def test_out_never_overwrites_without_force(run: Run, here: Path) -> None:
    """A run is refused, with --force it gives way; what is no run is refused always."""
    write_run(run, Destination.choose("a.toml", "out"), [])
    with pytest.raises(ConfigError, match="--out: 'out' holds a run already: choose another name, or give --force"):
        Destination.choose("a.toml", "out")
    (here / "out" / "old").write_text("1")
    write_run(run, Destination.choose("a.toml", "out", force=True), [])
    assert not (here / "out" / "old").exists()
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("1")
    with pytest.raises(ConfigError, match="'mine' holds files that are no run"):
        Destination.choose("a.toml", "mine", force=True)
    (here / "mine" / "plan.json").write_text('{"house": 1}')
    with pytest.raises(ConfigError, match="'mine' holds files that are no run"):
        Destination.choose("a.toml", "mine", force=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "expected a new folder's name"),
        (".", "expected a new folder's name"),
        ("..", "expected a new folder's name"),
        ("file", "'file' exists and is no folder"),
        ("file/x/y", "file' is no folder"),
        ("link", "exists and is no folder"),
    ],
)
def test_out_that_cannot_be_a_run_is_refused_at_once(here: Path, name: str, text: str) -> None:
    """Before anything is computed."""
    (here / "file").write_text("1")
    (here / "link").symlink_to(here)
    with pytest.raises(ConfigError, match=text):
        Destination.choose("a.toml", name)


def test_failure_while_writing_leaves_nothing(run: Run, here: Path) -> None:
    """A figure that raises, a full disk: no folder, no parent, and a run that was to be replaced is as it was."""

    def failing(folder: Path) -> tuple[str, ...]:
        (folder / "half.png").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_run(run, Destination(folder=here / "a" / "b"), [], failing)
    assert list(here.iterdir()) == []
    write_run(run, Destination(folder=here / "out"), [{"event": "first"}])
    before = {p.name: p.read_bytes() for p in (here / "out").iterdir()}
    with pytest.raises(OSError, match="No space left"):
        write_run(run, Destination(folder=here / "out", force=True), [], failing)
    assert {p.name: p.read_bytes() for p in (here / "out").iterdir()} == before


def test_damaged_run_is_named(run: Run, here: Path) -> None:
    """A single result's folder and a row without its keys."""
    folder = write_run(run, Destination(folder=here / "out"), [])
    path = folder / "result.json"
    document = json.loads(path.read_text())
    del document["runs"][1]["params"]
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="entry 1 of 'runs' is damaged"):
        load_run(folder)
    path.write_text('{"schema": 1, "result": {}}')
    with pytest.raises(ValueError, match="holds no run"):
        load_run(folder)
