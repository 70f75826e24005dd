"""Checkpoints: whole or not there, refused where they are of another run, and taken up again bit for bit."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp
from torch import Tensor

from curvkit_core import GGNOperator, HessianOperator, LambdaOperator, eigsh, trace
from curvkit_core.algorithms import Basis, CheckpointError, Eigsh, Hutchinson, run
from curvkit_core.algorithms import checkpoint as checkpoint_module
from curvkit_core.algorithms import driver as driver_module

A = symmetric_matrix(torch.linspace(-3, 5, 60, dtype=F64))


def counted(matrix: Tensor = A) -> tuple[LambdaOperator, list[int]]:
    """An operator and the list of its products."""
    calls: list[int] = []
    return LambdaOperator(lambda v: (calls.append(1), matrix @ v)[1], len(matrix), dtype=matrix.dtype), calls


def same(a: Any, b: Any) -> None:
    """Bit for bit, field by field; provenance excepted."""
    for f in attrs.fields(type(a)):
        if f.name == "info":
            continue
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, f.name


@pytest.mark.parametrize("stop", [1, 5, 25, 26, 27, 40])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    """A4: before the first restart, at it, and after it; products made before are not made again."""
    algorithm = Eigsh(k=3, ncv=12, tol=1e-10, seed=0)
    whole = run(algorithm, counted()[0])
    first, early = counted()
    partial = run(algorithm, first, max_matvecs=stop, checkpoint=tmp_path / "run")
    assert partial.info.interrupted == "matvecs" and len(early) == stop
    second, late = counted()
    resumed = run(algorithm, second, checkpoint=tmp_path / "run")
    same(resumed, whole)
    assert len(late) == whole.num_matvecs - stop
    assert resumed.info.num_matvecs == whole.num_matvecs
    assert resumed.info.seconds > partial.info.seconds
    again, none = counted()
    same(run(algorithm, again, checkpoint=tmp_path / "run"), whole)
    assert none == []  # a finished run is read, not made again


def test_saves_cost_what_was_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between restarts each save writes one row of the basis; at a restart, which changes all rows, all of them."""
    written: list[int] = []
    original = Basis.stored

    def stored(self: Basis, low: int, high: int) -> Tensor:
        written.append(high - low)
        return original(self, low, high)

    monkeypatch.setattr(Basis, "stored", stored)
    result = run(Eigsh(k=3, ncv=20, tol=1e-10, seed=0), counted()[0], checkpoint=tmp_path, checkpoint_every=1)
    assert result.num_matvecs > 20
    assert written[0] <= 2 and set(written[1:18]) == {1}
    assert max(written) > 3  # a restart was among them
    assert sum(written) < 0.5 * result.num_matvecs * 20
    assert len(list(tmp_path.glob("checkpoint-*.json"))) == 2


def test_a_large_basis_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the bound is copied at once, and the pieces make the same bits again."""
    sizes: list[int] = []
    original = Basis.stored

    def stored(self: Basis, low: int, high: int) -> Tensor:
        sizes.append(high - low)
        return original(self, low, high)

    monkeypatch.setattr(Basis, "stored", stored)
    monkeypatch.setattr(checkpoint_module, "_PIECE", 3 * 60 * 8 + 7)
    algorithm = Eigsh(k=3, ncv=12, tol=1e-10, seed=0)
    run(algorithm, counted()[0], max_matvecs=11, checkpoint=tmp_path)
    assert sizes == [3, 3, 3, 2]
    same(run(algorithm, counted()[0], checkpoint=tmp_path), run(algorithm, counted()[0]))


def test_every_so_many_products_or_seconds(tmp_path: Path) -> None:
    """Counted by manifests' numbers; without either only the end is saved."""

    def last(folder: Path) -> int:
        return max(int(p.stem.rpartition("-")[2]) for p in folder.glob("checkpoint-*.json"))

    algorithm = Hutchinson(num_matvecs=12, seed=0)
    run(algorithm, counted()[0], max_rows=1, checkpoint=tmp_path / "three", checkpoint_every=3)
    assert last(tmp_path / "three") == 4
    run(algorithm, counted()[0], max_rows=1, checkpoint=tmp_path / "seconds", checkpoint_seconds=1e-9)
    assert last(tmp_path / "seconds") == 12
    run(algorithm, counted()[0], max_rows=1, checkpoint=tmp_path / "end", checkpoint_seconds=1e9)
    assert last(tmp_path / "end") == 1
    run(algorithm, counted()[0], max_rows=1, checkpoint=tmp_path / "none", checkpoint_seconds=1e9, save_finished=False)
    assert not list((tmp_path / "none").glob("checkpoint-*.json"))
    run(algorithm, counted()[0], max_matvecs=5, checkpoint=tmp_path / "budget", save_finished=False)
    assert last(tmp_path / "budget") == 1
    with pytest.raises(ValueError, match="checkpoint_every=0: expected a positive number"):
        run(algorithm, counted()[0], checkpoint=tmp_path / "end", checkpoint_every=0)


def test_slow_saves_are_made_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: a save of two seconds is followed by eighteen without, one of a tenth by none."""
    now = 0.0

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now

    def times(save_takes: float) -> list[float]:
        nonlocal now
        seen: list[float] = []

        def save(self: checkpoint_module.CheckpointFolder, *arguments: object) -> None:
            nonlocal now
            seen.append(now)
            now += save_takes

        def product(v: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += 1.0
            return v

        monkeypatch.setattr(checkpoint_module.CheckpointFolder, "save", save)
        op = LambdaOperator(product, 40, dtype=torch.float64)
        folder = tmp_path / str(save_takes)
        now = 0.0
        run(Hutchinson(num_matvecs=40, seed=0), op, max_rows=1, checkpoint=folder, checkpoint_seconds=2.0)
        return seen

    monkeypatch.setattr(driver_module, "time", Clock)
    quick, slow = times(0.1), times(2.0)
    assert len(quick) >= 12
    assert slow == [2.0, 22.0, 42.0, 46.0]  # after 2, 20 and 38 products, and at the end


def spoil_size(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def spoil_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x10
    file.write_bytes(bytes(data))


SPOILT = {
    "manifest cut short": (lambda f: spoil_size(sorted(f.glob("checkpoint-*.json"))[-1]), "checkpoint-"),
    "state cut short": (lambda f: spoil_size(sorted(f.glob("state-*"))[-1]), "expected .* bytes"),
    "state changed": (lambda f: spoil_byte(sorted(f.glob("state-*"))[-1]), "not those that were written"),
    "state missing": (lambda f: sorted(f.glob("state-*"))[-1].unlink(), "is not there"),
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is the uninterrupted run's all the same; the log names the damage; with both damaged it is refused."""
    algorithm = Eigsh(k=3, ncv=12, tol=1e-10, seed=0)
    whole = run(algorithm, counted()[0])
    run(algorithm, counted()[0], max_matvecs=20, checkpoint=tmp_path, checkpoint_every=1)
    spoil, said = SPOILT[how]
    spoil(tmp_path)
    op, late = counted()
    with caplog.at_level(logging.WARNING, "curvkit"):
        same(run(algorithm, op, checkpoint=tmp_path), whole)
    assert len(late) == whole.num_matvecs - 19
    assert "the one before it is used" in caplog.text
    shutil.rmtree(tmp_path)
    run(algorithm, counted()[0], max_matvecs=20, checkpoint=tmp_path, checkpoint_every=1)
    for manifest in tmp_path.glob("checkpoint-*.json"):
        spoil_size(manifest)
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole .*Delete the folder"):
        run(algorithm, counted()[0], checkpoint=tmp_path)
    assert said


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    """Another option, algorithm, start vector or size; the folder is left as it was."""
    run(Eigsh(k=3, seed=0), counted()[0], max_matvecs=9, checkpoint=tmp_path)
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"of another run\. algorithm.k: 3 there, 4 here"):
        run(Eigsh(k=4, seed=0), counted()[0], checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"algorithm.type: 'curvkit_core.*eigsh:Eigsh' there"):
        run(Hutchinson(seed=0), counted()[0], checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"inputs.start: None there, 'float64 60"):
        run(Eigsh(k=3, seed=0), counted()[0], inputs={"start": torch.ones(60, dtype=F64)}, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"operator.shape: '\(60, 60\)' there, '\(40, 40\)' here"):
        run(Eigsh(k=3, seed=0), counted(torch.eye(40, dtype=F64))[0], checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="resume=False: nothing was done"):
        run(Eigsh(k=3, seed=0), counted()[0], checkpoint=tmp_path, resume=False)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def test_another_model_data_or_operator_is_refused(tmp_path: Path) -> None:
    """One weight moved by 1e-9, one example changed, GGN for Hessian, a shift: each is named; order does not count."""
    case = tied_mlp()
    data = case.batches((7, 6))

    def problem(batches: Any = data) -> Any:
        return type(case.problem())(case.model, batches, case.loss, preflight="off")

    def go_on(op: Any) -> Any:
        return eigsh(op, k=2, seed=0, checkpoint=tmp_path)

    run(Eigsh(k=2, seed=0), HessianOperator(problem()), max_matvecs=3, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"operator.type: 'HessianOperator' there, 'GGNOperator' here"):
        go_on(GGNOperator(problem()))
    with pytest.raises(CheckpointError, match=r"operator.type: 'HessianOperator' there, 'ShiftedOperator' here"):
        go_on(HessianOperator(problem()).shift(1.0))
    with pytest.raises(CheckpointError, match=r"operator.problem.parameters"):
        go_on(HessianOperator(problem().restrict("first.*")))
    inputs, targets = data[0]
    changed = inputs.clone()
    changed[2, 1] += 1e-9
    with pytest.raises(CheckpointError, match=r"operator.problem.data: '13 rows, 11 units"):
        go_on(HessianOperator(problem([(changed, targets), data[1]])))
    with torch.no_grad():
        case.model.first.weight[0, 0] += 1e-9
    with pytest.raises(CheckpointError, match=r"operator.problem.values"):
        go_on(HessianOperator(problem()))
    with torch.no_grad():
        case.model.first.weight[0, 0] -= 1e-9
    case.model.load_state_dict(tied_mlp().model.state_dict())
    assert go_on(HessianOperator(problem())).converged.all()


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    run(Eigsh(k=3, seed=0), counted()[0], max_matvecs=9, checkpoint=tmp_path)
    (manifest,) = tmp_path.glob("checkpoint-*.json")
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"schema": 2}))
    with pytest.raises(CheckpointError, match=r"schema 2, this curvkit-core reads 1: a newer version .*Upgrade"):
        run(Eigsh(k=3, seed=0), counted()[0], checkpoint=tmp_path)
    state = document["state"] | {"novelty": 1}
    manifest.write_text(json.dumps(document | {"state": state}))
    with pytest.raises(CheckpointError, match=r"EigshState has other fields here: .*another version of the algorithm"):
        run(Eigsh(k=3, seed=0), counted()[0], checkpoint=tmp_path)
    state = document["state"] | {"$type": "shutil:rmtree"}
    manifest.write_text(json.dumps(document | {"state": state}))
    with pytest.raises(CheckpointError, match=r"shutil:rmtree is not known here"):
        run(Eigsh(k=3, seed=0), counted()[0], checkpoint=tmp_path)


def test_other_threads_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on; log and result's findings say that it is not bit for bit."""
    algorithm = Hutchinson(num_matvecs=20, seed=0)
    run(algorithm, counted()[0], max_matvecs=8, checkpoint=tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING, "curvkit"):
            result = run(algorithm, counted()[0], checkpoint=tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert f"threads: {threads} there, {threads + 1} here" in caplog.text
    assert any("not bit for bit" in line for line in result.info.findings)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """A user's safetensors in the same folder stay."""
    mine = tmp_path / "model.safetensors"
    mine.write_bytes(b"mine")
    run(Eigsh(k=3, seed=0), counted()[0], checkpoint=tmp_path, checkpoint_every=1)
    assert mine.read_bytes() == b"mine"


def test_a_state_that_cannot_be_kept_is_refused_by_field(tmp_path: Path) -> None:
    @attrs.frozen
    class Odd(Hutchinson):
        def tell(self, space: Any, state: Any, V: Tensor, AV: Tensor) -> Any:
            state.samples = [1.0]
            return state

    with pytest.raises(ValueError, match=r"state.samples holds a list, which a checkpoint cannot keep"):
        run(Odd(num_matvecs=2, seed=0), counted()[0], max_matvecs=1, checkpoint=tmp_path, checkpoint_every=1)


def test_a_failed_save_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the sixth save is written: the error comes out, and the fifth is taken up."""
    algorithm = Eigsh(k=3, ncv=12, tol=1e-10, seed=0)
    whole = run(algorithm, counted()[0])
    original, calls = checkpoint_module.write_text, []

    def full(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        original(path, text)

    monkeypatch.setattr(checkpoint_module, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        run(algorithm, counted()[0], checkpoint=tmp_path, checkpoint_every=1)
    monkeypatch.undo()
    op, late = counted()
    same(run(algorithm, op, checkpoint=tmp_path), whole)
    assert len(late) == whole.num_matvecs - 5


def test_functions_take_the_drivers_options(tmp_path: Path) -> None:
    """trace(..., checkpoint=) goes on where it was stopped by its time."""
    op, calls = counted()
    first = trace(op, method="hutchinson", num_matvecs=30, seed=0, max_rows=1, max_seconds=1e-9, checkpoint=tmp_path)
    assert first.info.interrupted == "seconds" and len(calls) < 30
    second = trace(op, method="hutchinson", num_matvecs=30, seed=0, checkpoint=tmp_path)
    assert second.num_matvecs == 30 == len(calls)
