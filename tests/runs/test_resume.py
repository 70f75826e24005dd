"""An unfinished run: found, named, never taken for a finished one, and taken up again to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curvkit_core.cli.main import main
from curvkit_core.config import ConfigError
from curvkit_core.host.registry import configure_default
from curvkit_core.runs import load_run
from curvkit_core.runs.destination import Destination, folder_kind
from curvkit_core.runs.lock import FolderBusyError, folder_lock, holder_of

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("killed_run_file.py")
PROBLEM = """\
import torch
from curvkit_core import CallableLoss, Problem


class Diagonal(torch.nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)
        self.w = torch.nn.Parameter(torch.ones(len(values), dtype=torch.float64))


def build(values=(5.0, 3.0, 2.0, 1.0, 0.5, -1.0), data=1.0, fail_at=None):
    def loss(model, batch):
        build.calls += 1
        if fail_at is not None and build.calls > fail_at:
            raise ValueError("the data has gone")
        return 0.5 * (model.values * model.w**2).sum() * batch[0].mean()

    build.calls = 0
    batches = [(torch.full((3, 1), data, dtype=torch.float64),)]
    return Problem(Diagonal(values), batches, CallableLoss(loss), preflight="off")
"""
RUN_FILE = """\
schema = 1
[problem]
kind = "core/python"
factory = "own_diagonal:build"
[[operator]]
kind = "core/hessian"
[[algorithm]]
kind = "core/eigsh"
k = 2
[[algorithm]]
kind = "core/trace"
method = "hutchinson"
num_matvecs = 12
[[algorithm]]
kind = "core/spectral-density"
num_probes = 2
steps = 4
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a run file of three jobs and its problem; afterwards the default registry as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_diagonal.py").write_text(PROBLEM)
    (tmp_path / "own.toml").write_text(RUN_FILE)
    sys.modules.pop("own_diagonal", None)
    yield tmp_path
    sys.modules.pop("own_diagonal", None)
    configure_default()


def run(*arguments: str) -> int:
    return main(["--no-plugins", "run", "own.toml", "--no-plots", "--out", "out", *arguments])


def stopped_after(products: int, *arguments: str) -> None:
    """A run whose budget ends it after so many products."""
    assert run(f"--set=budget.products={products}", *arguments) == 3


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def document(folder: str = "out") -> Any:
    return timeless(json.loads(Path(folder, "result.json").read_text()))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_ten_killed_runs_are_resumed_to_the_same_results(tmp_path: Path) -> None:
    """SIGKILL at ten random moments of eight jobs, five of them twice: every result.json is the whole run's.

    A sweep and slices of the loss are among them: slices are made anew, in float32, from eigenvectors read from a file.
    """
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), "10"], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] == 10
    assert found["middle"] >= 5, found
    assert len(set(found["jobs"])) >= 2, found
    assert found["left_over"] == []


@pytest.mark.parametrize("products", [3, 6, 9, 18, 20])
def test_stopped_run_goes_on_bit_for_bit(here: Path, products: int) -> None:
    """Stopped in each of the jobs and between them; seeds that the file leaves out are those drawn at first."""
    stopped_after(products)
    started = json.loads((here / "out/checkpoint/run.json").read_text())
    seeds = [f"--set={place.removeprefix('$.').replace('[', '.').replace(']', '')}.seed={seed}"
             for place, seed in started["seeds"].items()]  # fmt: skip
    assert len(seeds) == 3
    partial = json.loads((here / "out/result.json").read_text())
    assert partial["stopped"] == "products"
    assert sum(row["result"]["num_matvecs"] for row in partial["runs"]) == products
    assert run("--resume") == 0
    assert folder_kind(here / "out") == "finished"
    assert main(["--no-plugins", "run", "own.toml", "--no-plots", "--out", "whole", *seeds]) == 0
    assert document() == document("whole")
    assert (here / "out/result.safetensors").read_bytes() == (here / "whole/result.safetensors").read_bytes()


def test_budget_of_seconds_ends_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spent before the first product: exit code 3, no folder; enough for all: exit code 0."""
    assert run("--set=budget.seconds=1e-9") == 3
    assert "the budget of seconds was spent before there was any result" in capsys.readouterr().err
    assert not (here / "out").exists()
    assert run("--set=budget.seconds=1000") == 0
    assert run("--force", "--set=budget.seconds=0") == 2
    assert "$.budget.seconds" in capsys.readouterr().err


def test_finished_jobs_are_not_repeated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a stop in the second job the first costs nothing: a problem that fails at its product shows it."""
    stopped_after(10)
    capsys.readouterr()
    assert run("--resume") == 0
    said = capsys.readouterr().err
    assert "[1/3] core/eigsh on core/hessian: finished before" in said
    assert "[2/3] core/trace on core/hessian: 12 products" in said
    events = [json.loads(line)["event"] for line in (here / "out/log.jsonl").read_text().splitlines()]
    assert events.count("job finished") == 4  # eigsh, the trace stopped, the trace, the density


def test_error_in_a_later_job_keeps_those_before(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that fails names what is kept; mended, it goes on from there, and no result is there in between."""
    (here / "own_diagonal.py").write_text(PROBLEM.replace("fail_at=None", "fail_at=8"))
    assert run() == 2
    said = capsys.readouterr().err
    assert "the data has gone" in said
    assert "2 of 3 jobs are finished and kept: --resume --out out" in said
    assert not (here / "out/result.json").exists()
    with pytest.raises(
        FileNotFoundError, match="not finished, with no results yet: go on with it by curvkit run --resume"
    ):
        load_run("out")
    (here / "own_diagonal.py").write_text(PROBLEM)
    sys.modules.pop("own_diagonal")
    assert run("--resume") == 0
    assert len(load_run("out")) == 3


def test_resume_of_nothing_starts_and_of_a_finished_run_is_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script may call `run --resume` again and again; another file's finished run is refused."""
    assert run("--resume") == 0
    before = bytes_of(here / "out")
    assert run("--resume") == 0
    assert "is finished, there is nothing to resume" in capsys.readouterr().err
    assert run("--resume", "--set=algorithm.0.k=3") == 2
    assert "algorithm.0.k: 2 there, 3 here" in capsys.readouterr().err
    assert bytes_of(here / "out") == before


def test_numbered_folder_of_the_same_file_is_found(here: Path) -> None:
    """Without --out, --resume takes the latest unfinished run of the same tables, else a new number."""
    base = ["--no-plugins", "run", "own.toml", "--no-plots"]
    assert main([*base, "--set=budget.products=5"]) == 3
    assert main([*base, "--set=budget.products=5", "--set=algorithm.0.k=1"]) == 3
    assert folder_kind(here / "runs/own-1") == folder_kind(here / "runs/own-2") == "unfinished"
    assert Destination.choose("own.toml", None, resume=True, tables={}).folder == Path("runs/own-3")
    assert main([*base, "--resume", "--set=algorithm.0.k=1", "--set=budget.products=1000"]) == 0
    assert folder_kind(here / "runs/own-2") == "finished"
    assert sorted(p.name for p in (here / "runs").iterdir()) == ["own-1", "own-2"]


CHANGED = {
    "other options": (["--set=algorithm.0.k=3"], "algorithm.0.k: 2 there, 3 here"),
    "other model": (["--set=problem.options={values=[5.0, 3.0, 2.0, 1.0, 0.5, -2.0]}"], "problem.options"),
    "another algorithm": (["--set=algorithm.1.kind='core/diagonal'"], "algorithm.1"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_run_file_is_refused(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What differs, there and here, and what to do; nothing is touched."""
    stopped_after(10)
    before = bytes_of(here / "out")
    arguments, text = CHANGED[name]
    assert run("--resume", *arguments) == 2
    said = capsys.readouterr().err
    assert "--resume: the unfinished run in out was started otherwise." in said
    assert text in said
    assert bytes_of(here / "out") == before


@pytest.mark.parametrize(
    ("old", "new", "what"), [("-1.0)", "-2.0)", "problem.values"), ("data=1.0", "data=2.0", "problem.data")]
)
def test_changed_model_and_data_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, what: str
) -> None:
    """The run file is the same, the weights or the examples are not: told by their fingerprints."""
    values = PROBLEM.replace("self.values = torch.tensor(values, dtype=torch.float64)",
                             "self.register_buffer('values', torch.tensor(values, dtype=torch.float64))")  # fmt: skip
    (here / "own_diagonal.py").write_text(values)
    stopped_after(10)
    (here / "own_diagonal.py").write_text(values.replace(old, new))
    sys.modules.pop("own_diagonal")
    before = bytes_of(here / "out")
    assert run("--resume") == 2
    said = capsys.readouterr().err
    assert "the model or the data are not those that the run in out was started with" in said
    assert what in said
    assert bytes_of(here / "out") == before


def test_without_resume_or_force_an_unfinished_run_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And --force starts it again; what --force replaces stays whole until then."""
    stopped_after(10)
    assert run() == 2
    assert "'out' holds an unfinished run: give --resume to go on with it, or --force" in capsys.readouterr().err
    assert run("--force") == 0
    finished = bytes_of(here / "out")
    stopped = "--set=problem.options={fail_at=8}"
    assert run("--force", stopped) == 2  # fails in the third job
    kept = bytes_of(here / "out")
    assert {name: kept[name] for name in finished} == finished
    assert {name.split("/")[0] for name in kept} == {*finished, "checkpoint"}


DAMAGE = {
    "newer": ('{"schema": 9}', "run.json has schema 9, expected 1: a newer curvkit-core wrote it"),
    "truncated": ('{"schema": 1, "tab', "run.json is damaged (JSONDecodeError"),
    "no seeds": ('{"schema": 1, "tables": {}, "operators": [], "time": ""}', "run.json is damaged (KeyError: 'seeds'"),
    "no object": ("[1]", "run.json is damaged (TypeError"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_record_of_a_start_is_named(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A newer version's, a cut one, one without its keys: exit code 2, the file, the mend."""
    stopped_after(10)
    text, said = DAMAGE[name]
    (here / "out/checkpoint/run.json").write_text(text)
    before = bytes_of(here / "out")
    assert run("--resume") == 2
    assert said in capsys.readouterr().err
    assert bytes_of(here / "out") == before


def test_damaged_finished_job_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job's stored tensors cut short: which folder to delete; then that job is done again."""
    stopped_after(10)
    done = here / "out/checkpoint/job-0-0/done"
    path = done / "result.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert run("--resume") == 2
    assert f"Mend: delete {Path('out/checkpoint/job-0-0/done')}" in capsys.readouterr().err
    shutil.rmtree(done)
    assert run("--resume") == 0


def test_two_runs_in_one_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While one process holds the lock the next is told which one it is; after SIGKILL the folder is free."""
    stopped_after(10)
    lock = here / "out/checkpoint/lock"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom curvkit_core.runs.lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert holder_of(lock).startswith(f"process {child.pid} on ")
        for arguments in ([], ["--resume"], ["--force"]):
            assert run(*arguments) == 2
            assert f"process {child.pid} on " in capsys.readouterr().err
        with pytest.raises(FolderBusyError, match="is at work in this folder"), folder_lock(lock):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert holder_of(lock) == ""
    assert run("--resume") == 0


def test_read_only_folder_is_told_before_anything_is_computed(here: Path) -> None:
    """By a user who may not write there, which root always may: another one, in a child process."""
    above = Path(tempfile.mkdtemp())  # pytest's own folders are closed to that user
    (above / "closed").mkdir()
    above.chmod(0o755)
    (above / "closed").chmod(0o555)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            Destination.choose("own.toml", above / "closed/out")
        except ConfigError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 1000).decode()
    os.close(read)
    (above / "closed").chmod(0o755)
    shutil.rmtree(above)
    assert said == f"--out: '{above}/closed/out' cannot be written: '{above}/closed' is not writable"


def test_full_disk_keeps_what_was_there(here: Path) -> None:
    """No file above 4 KB can be written: exit code 1, no traceback; the run that was to be replaced is as it was."""
    assert run() == 0
    before = bytes_of(here / "out")
    program = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import curvkit_core.algorithms\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from curvkit_core.cli.main import main\n"
        "sys.dont_write_bytecode = True\n"
        "sys.exit(main(['--no-plugins', 'run', 'own.toml', '--no-plots', '--force', '--out', 'out']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=here, check=False, env=environment
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    after = bytes_of(here / "out")
    assert {name: after[name] for name in before} == before


def test_swap_cut_in_its_middle_is_undone(here: Path) -> None:
    """Killed between the two renames that swap an unfinished folder for the finished one: --resume finds it."""
    stopped_after(10)
    (here / "out").rename(here / ".out.old-0a1b2c3d")
    (here / ".out.tmp-0a1b2c3d").mkdir()
    assert run("--resume") == 0
    assert sorted(p.name for p in here.iterdir()) == ["out", "own.toml", "own_diagonal.py"]
