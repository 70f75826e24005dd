"""Runs whose vectors lie in parts, in one process that keeps them as shards do: folders, resumptions, full disks."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import frozen
from safetensors.torch import load_file
from torch import Tensor, nn

from curvkit_core import BackendSpec, Registry
from curvkit_core.backends import HoldsShards, Segment, StoresRows, VectorSpace, World
from curvkit_core.cli.main import main
from curvkit_core.errors import RankError
from curvkit_core.results.row_parts import DamagedPartError, read_parts, write_part
from curvkit_core.runs import compare_runs, load_run, open_run, report_html, report_sections, write_run
from curvkit_core.runs.destination import Destination, folder_kind
from curvkit_core.runs.rows_apart import put_apart

F64 = torch.float64
PART = "part-00000.safetensors"
RUN_FILE = """\
schema = 1
[problem]
kind = "local/diagonal"
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/hessian"
params = ["tail"]
[[algorithm]]
kind = "core/eigsh"
k = 2
seed = 0
[[algorithm]]
kind = "core/lanczos-tridiagonal"
steps = 3
seed = 1
[[algorithm]]
kind = "core/trace"
seed = 2
num_matvecs = 3
method = "hutchinson"
[landscape]
directions = 1
points = 5
[backend]
kind = "local/parted"
"""


class Parted(VectorSpace):
    """Writes and reads its vectors, and never has them gathered."""

    full: tuple[str, ...] = ()  # folders that take no file

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        if any(name in str(folder) for name in self.full):
            msg = "No space left on device"
            raise OSError(28, msg)
        tensors, offsets, low = {}, {}, 0
        for s in self.segments:
            for name, own in rows.items():
                tensors[f"{name}/{s.name}"] = own[..., low : low + s.numel].unflatten(-1, (-1, s.row))
                offsets[f"{name}/{s.name}"] = (0,) * (own.ndim + 1)
            low += s.numel
        return {PART: write_part(folder / PART, tensors, offsets)}

    def read_rows(self, folder: Path, name: str, files: Mapping[str, Any]) -> Tensor:
        return read_parts(folder, name, files, self.layout)

    def whole_rows(self, rows: Tensor) -> Tensor:
        msg = "a vector was gathered"
        raise AssertionError(msg)


@frozen
class PartedBackend:
    """One rank of one, with all of every parameter."""

    world: World = World()

    def space(self, parameters: Any) -> Parted:
        return Parted(parameters.segments, dtype=parameters.dtype, device=parameters.device)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return sums

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        return batches

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def piece(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int]:
        return parameter, 0

    def forward(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def in_step(self, items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        return ((item, True) for item in items)


@pytest.fixture
def run(here: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``run(*arguments)``: the run file into the folder ``out``; a temporary directory beside it."""
    registry.register_local(BackendSpec(name="local/parted", summary="a", factory=PartedBackend))
    monkeypatch.setattr("curvkit_core.host.registry.default_registry", lambda: registry)
    (here / "own.toml").write_text(RUN_FILE)
    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    return lambda *arguments, out="out": main(["run", "own.toml", "--no-plots", "--out", out, *arguments])


@pytest.fixture
def whole(run: Any) -> tuple[Any, ...]:
    """What one process finds that keeps its vectors whole."""
    assert run("--set", 'backend.kind="core/single"', out="whole") == 0
    return load_run("whole")


def same_vectors(found: tuple[Any, ...], whole: tuple[Any, ...]) -> None:
    """Bit for bit: both multiplied alike, on one thread."""
    assert [r.algorithm for r in found] == [r.algorithm for r in whole]
    for one, other in zip(found, whole, strict=True):
        for name in ("eigenvectors", "basis", "residual", "eigenvalues", "losses"):
            if hasattr(other.result, name):
                assert torch.equal(getattr(one.result, name), getattr(other.result, name)), (other.algorithm, name)


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_fake_is_what_it_stands_for() -> None:
    """A backend that holds shards, over a space that stores rows."""
    assert isinstance(PartedBackend(), HoldsShards)
    assert isinstance(Parted((Segment(name="a", numel=1),), dtype=F64), StoresRows)


def test_folder_holds_vectors_in_parts(run: Any, whole: tuple[Any, ...], here: Path) -> None:
    """No vector in result.safetensors, none gathered, slices from what was written; loaded, it is the whole run."""
    assert run() == 0
    names = ["log.jsonl", "plan.json", "report.html", "result.json", "result.safetensors"]
    assert left_in(here / "out") == [*names, "rows-0-0", "rows-0-1", "rows-1-0", "rows-1-1"]
    assert left_in(here / "tmp") == []
    document = json.loads((here / "out/result.json").read_text())
    assert document["schema"] == 2 and document["stopped"] == ""
    notes = [row["result"].get("eigenvectors") for row in document["runs"]]
    assert notes[0] == {"$tensor": "runs.0.eigenvectors", "shape": [2, 6], "dtype": "float64", "parts": "rows-0-0"}
    vectors = {"runs.0.eigenvectors", "runs.1.basis", "runs.1.residual", "runs.3.eigenvectors"}
    assert vectors & set(load_file(here / "out/result.safetensors")) == set()
    assert vectors <= set(load_file(here / "whole/result.safetensors"))  # control
    found = load_run(here / "out")
    same_vectors(found, whole)
    assert [r.parts for r in found] == [None] * len(found)
    assert [r.algorithm for r in found[-2:]] == ["core/loss-slice"] * 2


def test_operator_s_space_reads_its_own_vectors(run: Any, whole: tuple[Any, ...], here: Path) -> None:
    """Those over other parameters stay on disk; a space that fits none is refused."""
    assert run() == 0
    all_of_them = Parted((Segment(name="head", numel=2), Segment(name="tail", numel=4)), dtype=F64)
    found = open_run(here / "out", space=all_of_them).results
    assert torch.equal(found[0].result.eigenvectors, whole[0].result.eigenvectors) and found[0].parts is None
    left = found[3]
    assert left.params == ("tail",) and left.result.eigenvectors.is_meta
    assert left.result.eigenvectors.shape == (2, 4)
    assert left.parts.folder == here / "out" / "rows-1-0"
    assert torch.equal(left.parts.whole("eigenvectors"), whole[3].result.eigenvectors)
    with pytest.raises(ValueError, match=r"over 2 parameters \(head, tail\), n = 6, the space's over 1 parameters"):
        load_run(here / "out", space=VectorSpace((Segment(name="head", numel=2),), dtype=F64))


def test_observers_see_shapes_and_where_the_elements_are(
    run: Any, here: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the folder is written; tables, page and comparison of such a run need no element."""
    seen: list[Any] = []
    monkeypatch.setattr(type(registry.observers), "call_run_finished", lambda _, run: seen.append(run))
    assert run() == 0
    (done,) = seen
    first = done.results[0]
    assert first.result.eigenvectors.is_meta and first.result.eigenvectors.shape == (2, 6)
    assert first.parts.folder == Path("out/rows-0-0")
    assert torch.equal(first.parts.whole("eigenvectors"), load_run("out")[0].result.eigenvectors)
    assert report_sections(done) and "core/eigsh" in report_html(done)
    shown = [row for section in compare_runs([done, open_run("out")]) for row in section.rows]
    assert any("left on disk" in row for row in shown)
    loaded = [row for section in compare_runs([open_run("out"), open_run("out")]) for row in section.rows]
    assert any("1.000" in row for row in loaded)


def test_tables_and_figures_read_no_vector(
    run: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`show` and `plot` of a folder whose vectors may be more than there is memory; `compare` needs them.

    A file that is missing is told by all, with its name.
    """
    assert run() == 0
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("curvkit_core.results.parted_rows.read_parts", _exit)
        assert main(["show", "out"]) == 0
        assert main(["plot", "out", "--out", "figures"]) == 0
        with pytest.raises(SystemExit):
            main(["compare", "out", "out"])
    shown = capsys.readouterr().out
    assert "eigenvalues (core/eigsh" in shown
    assert ["residual", "tensor", "(6,)", "float64"] in [line.split() for line in shown.splitlines()]
    assert "core/eigsh" in (here / "figures/report.html").read_text()
    assert main(["compare", "out", "out"]) == 0
    (here / "out/rows-0-1" / PART).unlink()
    for command in (["show", "out"], ["plot", "out"], ["compare", "out", "out"]):
        assert main(command) == 2
        assert f"rows-0-1/{PART}" in capsys.readouterr().err


@pytest.mark.parametrize("products", [3, 8, 14])
def test_stopped_run_goes_on(run: Any, whole: tuple[Any, ...], here: Path, products: int) -> None:
    """In each of the jobs and between them: what was found is in its folder, and nothing of the job is kept twice."""
    assert run(f"--set=budget.products={products}") == 3
    assert folder_kind(here / "out") == "unfinished"
    assert load_run(here / "out")[0].result.eigenvectors.shape == (2, 6)
    assert not list(here.glob("out/checkpoint/job-*/rows"))
    assert run("--resume") == 0
    same_vectors(load_run(here / "out"), whole)
    assert not (here / "out/checkpoint").exists()


def test_finished_jobs_are_not_read_by_a_resumption(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their vectors stay on disk, and end in the run's folder; a damaged one is named, with the mend."""
    with monkeypatch.context() as patched:
        patched.setattr("curvkit_core.runs.record.write_run", _exit)
        with pytest.raises(SystemExit):
            run()
    assert folder_kind(here / "out") == "unfinished"
    kept = here / "out/checkpoint/job-0-0/done/rows-0-0" / PART
    content = kept.read_bytes()
    kept.write_bytes(content[:-8])
    assert run("--resume") == 2
    said = capsys.readouterr().err
    assert f"{PART} has {len(content) - 8} bytes, expected {len(content)} bytes. Mend: delete" in said
    kept.unlink()
    assert run("--resume") == 2
    assert f"{PART} is not there, expected {len(content)} bytes. Mend: delete" in capsys.readouterr().err
    kept.write_bytes(content)
    with monkeypatch.context() as patched:
        patched.setattr(Parted, "read_rows", None)  # the slices alone read: without them nothing does
        patched.setattr("curvkit_core.runs.execution.slices_of_run", lambda *_: [])
        patched.setattr("curvkit_core.results.parted_rows.read_parts", None)
        assert run("--resume") == 0
    assert capsys.readouterr().err.count("finished before") == 6
    same_vectors(load_run(here / "out"), whole[:6])


def _exit(*_: Any, **__: Any) -> None:
    raise SystemExit(9)


def test_files_of_a_run_that_was_killed_as_it_wrote_give_way(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What half of a job's vectors left behind is neither taken for them nor kept."""
    with monkeypatch.context() as patched:
        patched.setattr(Parted, "write_rows", _exit)
        with pytest.raises(SystemExit):
            run("--set", "checkpoint.products=1")
    left = here / "out/checkpoint/job-0-0/rows"
    left.mkdir()
    (left / "part-00007.safetensors").write_bytes(b"half")
    assert run("--resume", "--set", "checkpoint.products=1") == 0
    assert left_in(here / "out/rows-0-0") == [PART]
    same_vectors(load_run(here / "out"), whole)


def test_eigenvectors_that_cannot_be_read_again_are_named(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the slices of the loss read them: exit code 2, and the finished jobs are kept for --resume."""

    def damaged(self: Parted, folder: Path, name: str, files: Mapping[str, Any]) -> Tensor:
        msg = f"{PART}: the bytes of {name!r} are not those that were written"
        raise DamagedPartError(msg)

    with monkeypatch.context() as patched:
        patched.setattr(Parted, "read_rows", damaged)
        assert run() == 2
    said = capsys.readouterr().err
    assert "the eigenvectors of core/hessian cannot be read again: " in said
    assert f"rows-0-0: {PART}: the bytes of 'eigenvectors' are not those" in said
    assert "6 of 6 jobs are finished and kept: --resume --out out" in said
    assert run("--resume") == 0
    same_vectors(load_run(here / "out"), whole)


class Lead:
    """Keeps what rank 0 tells the others; once they are out of step nothing can be told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.broken = False

    def __call__(self, *, rows: str) -> None:
        if self.broken:
            msg = "this process group is out of step"
            raise RankError(msg)
        self.told.append(rows)


@pytest.mark.parametrize("broken", [False, True])
def test_ranks_are_told_each_place_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    """A place that takes no file is followed by the next; where ranks are out of step none is, which is the error."""
    lead, said = Lead(), []
    space = Parted((Segment(name="a", numel=6),), dtype=F64)

    def failing(self: Parted, folder: Path, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        lead.broken = broken
        msg = "rank 0 stopped"
        raise RankError(msg)

    def missing() -> Path:
        msg = "Read-only file system"
        raise OSError(30, msg)

    def made(name: str) -> Callable[[], Path]:
        (tmp_path / name).mkdir()
        return lambda: tmp_path / name

    folders = [("there", missing), ("here", made("first")), ("elsewhere", made("second"))]
    op: Any = SimpleNamespace(space=space)
    result = Vectors(rows=torch.ones(2, 6, dtype=F64))
    monkeypatch.setattr(Parted, "write_rows", failing)
    if broken:
        with pytest.raises(RankError, match="out of step"):
            put_apart(result, op, folders, lead, said.append)
        assert lead.told == [str(tmp_path / "first")]
        assert len(said) == 2
        return
    found, parts = put_apart(result, op, folders, lead, said.append)
    assert (found.rows.is_meta, found.rows.shape, parts) == (True, (2, 6), None)
    assert lead.told == [str(tmp_path / "first"), str(tmp_path / "second"), ""]
    assert [text.partition(" cannot be written into ")[2] for text in said[:3]] == [
        "there: [Errno 30] Read-only file system",
        "here: rank 0 stopped",
        "elsewhere: rank 0 stopped",
    ]
    assert said[3].startswith("they are lost when the run ends")
    assert left_in(tmp_path) == []


@frozen(kw_only=True, eq=False)
class Vectors:
    """A result of vectors alone."""

    rows: Tensor


def test_full_folder_sends_vectors_to_the_temporary_directory(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It had no room when the job ended and has some at the end: the run is whole, and nothing is left over."""
    monkeypatch.setattr(Parted, "full", ("job-0-0", "job-0-1"))
    assert run() == 0
    said = capsys.readouterr().err
    assert "core/eigsh on core/hessian: its vectors (eigenvectors) cannot be written into the run's folder: " in said
    assert "its vectors (basis, residual) cannot be written into the run's folder: [Errno 28] No space left" in said
    same_vectors(load_run(here / "out"), whole)
    assert left_in(here / "tmp") == []


def test_full_disks_cost_no_number(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No room anywhere: the report is printed, what is lost is said, the rest is kept; --resume does the one again."""
    monkeypatch.setattr(Parted, "full", ("job-0-0", "curvkit-rows"))
    assert run() == 1
    shown = capsys.readouterr()
    assert "eigenvalues (core/eigsh" in shown.out and "trace (core/trace" in shown.out
    assert "its vectors (eigenvectors) cannot be written into the temporary directory: [Errno 28]" in shown.err
    assert "they are lost when the run ends, unless --resume has a checkpoint to go on from" in shown.err
    assert "no slices of the loss for core/hessian: its eigenvectors could not be written" in shown.err
    assert "core/eigsh on core/hessian: no place took the elements of eigenvectors when it ended" in shown.err
    assert "Traceback" not in shown.err
    assert left_in(here / "tmp") == []
    monkeypatch.setattr(Parted, "full", ())
    assert run("--resume") == 0
    assert capsys.readouterr().err.count("finished before") == 5
    same_vectors(load_run(here / "out"), whole)


def test_run_that_its_folder_cannot_take_is_rescued_with_its_vectors(
    run: Any, whole: tuple[Any, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No result can be kept or written there: the run lies in the temporary directory, vectors and all."""
    from curvkit_core.results.store import write_stored

    def full(document: Any, tensors: Any, folder: Path) -> None:
        if str(here / "tmp") not in str(folder):
            raise OSError(28, "No space left on device")
        write_stored(document, tensors, folder)

    monkeypatch.setattr("curvkit_core.results.store.write_stored", full)
    assert run() == 1
    (place,) = (here / "tmp").glob("curvkit-*/out")
    assert f"the run's files are in {place} instead" in capsys.readouterr().err
    assert not (here / "out").exists()
    assert [p.name for p in (here / "tmp").iterdir()] == [place.parent.name]
    same_vectors(load_run(place), whole)


def test_run_written_again_takes_its_vectors_along(run: Any, whole: tuple[Any, ...], here: Path) -> None:
    """`write_run` of a run whose vectors are on disk, by another process: whole or not at all."""
    assert run() == 0
    of_tail = Parted((Segment(name="tail", numel=4),), dtype=F64)
    opened = open_run("out", space=of_tail)
    assert opened.results[0].parts is not None and opened.results[3].parts is None
    write_run(opened, Destination(folder=here / "copy"), [])
    same_vectors(load_run(here / "copy"), whole)
    shutil.rmtree(here / "out/rows-0-1")
    with pytest.raises(FileNotFoundError):
        write_run(opened, Destination(folder=here / "half"), [])
    assert not (here / "half").exists()
