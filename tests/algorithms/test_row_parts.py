"""Vectors on disk in parts: what is written is read, and what was changed is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import F64
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import CheckpointError, Eigsh, run
from curvkit_core.backends import Segment, StoresRows, VectorSpace
from curvkit_core.results.row_parts import DamagedPartError, check_part, read_parts, write_part

SEGMENTS = (
    Segment(name="a.weight", numel=12, row=3),
    Segment(name="b", numel=5),
    Segment(name="c.weight", numel=8, row=4),
)
LAYOUT = VectorSpace(SEGMENTS, dtype=F64).layout
N = 25


def parted(rows: Tensor, cuts: dict[str, tuple[int, int]]) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """A rank's pieces: entries `low` to `high` of each parameter."""
    tensors, offsets, offset = {}, {}, 0
    for s in SEGMENTS:
        low, high = cuts[s.name]
        whole = rows[..., offset : offset + s.numel].unflatten(-1, (-1, s.row))
        if high > low:
            tensors[f"x/{s.name}"] = whole[..., low:high, :]
            offsets[f"x/{s.name}"] = (0,) * (rows.ndim - 1) + (low, 0)
        offset += s.numel
    return tensors, offsets


def written(folder: Path, rows: Tensor) -> dict[str, Any]:
    """Two uneven parts, one of them without the last parameter."""
    first = parted(rows, {"a.weight": (0, 3), "b": (0, 1), "c.weight": (0, 2)})
    second = parted(rows, {"a.weight": (3, 4), "b": (1, 5), "c.weight": (2, 2)})
    return {
        name: write_part(folder / name, *part) for name, part in (("0.safetensors", first), ("1.safetensors", second))
    }


@pytest.mark.parametrize("shape", [(2, N), (N,)])
def test_parts_are_put_together(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Bit for bit, in the space's order of parameters, which may be another than the files'."""
    rows = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    files = written(tmp_path, rows)
    assert torch.equal(read_parts(tmp_path, "x", files, LAYOUT), rows)
    turned = read_parts(tmp_path, "x", files, LAYOUT[::-1])
    assert torch.equal(turned, torch.cat([rows[..., 17:], rows[..., 12:17], rows[..., :12]], dim=-1))


def test_damage_is_found(tmp_path: Path) -> None:
    """A flipped bit, a file that is cut off, one that is missing, one of another kind: by the file's name."""
    files = written(tmp_path, torch.ones(2, N, dtype=F64))
    path = tmp_path / "1.safetensors"
    good = path.read_bytes()
    check_part(path, "x", files["1.safetensors"])
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DamagedPartError, match=r"1.safetensors: the bytes of 'x' are not those"):
        read_parts(tmp_path, "x", files, LAYOUT)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(DamagedPartError, match=r"1.safetensors: "):
        read_parts(tmp_path, "x", files, LAYOUT)
    path.unlink()
    with pytest.raises(DamagedPartError, match=r"1.safetensors: "):
        read_parts(tmp_path, "x", files, LAYOUT)
    with pytest.raises(DamagedPartError, match=r"has 36 elements of 'x', expected 50"):
        read_parts(tmp_path, "x", {"0.safetensors": files["0.safetensors"]}, LAYOUT)
    with pytest.raises(DamagedPartError, match=r"parameter 'c.weight', which is not among those of this run"):
        read_parts(tmp_path, "x", files, LAYOUT[:2])
    from safetensors.torch import save_file

    save_file({"x/b": torch.zeros(1, 5, 1)}, path)
    with pytest.raises(DamagedPartError, match=r"1.safetensors does not say where its tensors belong"):
        read_parts(tmp_path, "x", files, LAYOUT)
    for told in ('{"x/b": {"saved_offsets": ["a", 0, 0]}}', '{"x/b": {"saved_offsets": 3}}', "[]", "{"):
        save_file({"x/b": torch.zeros(1, 5, 1)}, path, metadata={"DCP_SHARDING_INFO": told})
        with pytest.raises(DamagedPartError, match=r"1.safetensors does not say where its tensors belong"):
            read_parts(tmp_path, "x", files, LAYOUT)


@pytest.mark.parametrize("offset", [(0, 1, 0), (0, -1, 0), (0, 0), (0, 10**20, 0)])
def test_piece_in_a_wrong_place_is_refused(tmp_path: Path, offset: tuple[int, ...]) -> None:
    """Of whole `b`, said to begin elsewhere than at its first entry: it never reaches another parameter's elements."""
    facts = write_part(tmp_path / "0.safetensors", {"x/b": torch.ones(2, 5, 1)}, {"x/b": offset})
    with pytest.raises(DamagedPartError, match=r"0.safetensors: 'x/b' .* is no part of rows \(2, 5\)"):
        read_parts(tmp_path, "x", {"0.safetensors": facts}, [("b", 5)])


class Parted(VectorSpace):
    """One process that keeps its vectors as a sharded space does, in one part."""

    full = False

    def write_rows(self, folder: Path, rows: dict[str, Tensor]) -> dict[str, Any]:
        if self.full:
            msg = "No space left on device"
            raise OSError(28, msg)
        tensors = {f"{name}/{self.segments[0].name}": t[..., None] for name, t in rows.items()}
        offsets = {key: (0,) * t.ndim for key, t in tensors.items()}
        return {"0.safetensors": write_part(folder / "0.safetensors", tensors, offsets)}

    def read_rows(self, folder: Path, name: str, files: dict[str, Any]) -> Tensor:
        return read_parts(folder, name, files, self.layout)


class Diagonal(LambdaOperator):
    """Of 40 numbers, over a space that stores its rows, or one that does not."""

    def __init__(self, *, parted: bool) -> None:
        values = torch.linspace(-3.0, 5.0, 40, dtype=F64)
        super().__init__(lambda v: values * v, 40, dtype=F64)
        if parted:
            self.domain = self.codomain = Parted(self.domain.segments, dtype=F64)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_from_parts_or_from_whole_rows(tmp_path: Path, first: bool, second: bool) -> None:
    """Bit for bit that of one that was never stopped, whatever kind of space wrote and reads."""
    assert isinstance(Diagonal(parted=True).space, StoresRows) and not isinstance(
        Diagonal(parted=False).space, StoresRows
    )
    algorithm = Eigsh(k=2, ncv=8, tol=1e-10, seed=0)
    whole = run(algorithm, Diagonal(parted=False))
    for stop in (5, 11):
        run(algorithm, Diagonal(parted=first), max_matvecs=stop, checkpoint=tmp_path, checkpoint_every=2)
    assert any(path.is_dir() for path in tmp_path.glob("rows-*")) == first
    result = run(algorithm, Diagonal(parted=second), checkpoint=tmp_path, checkpoint_every=2)
    assert result.num_matvecs == whole.num_matvecs > 11
    assert torch.equal(result.eigenvalues, whole.eigenvalues)
    assert torch.equal(result.eigenvectors, whole.eigenvectors)
    import json

    named: set[str] = set()
    for manifest in tmp_path.glob("checkpoint-*.json"):
        named |= {name.partition("/")[0] for name in json.loads(manifest.read_text())["files"]}
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("checkpoint-")} == named


def test_a_damaged_part_gives_way_to_the_checkpoint_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning; where the one before is damaged too, an error."""
    algorithm = Eigsh(k=2, ncv=8, tol=1e-10, seed=0)
    run(algorithm, Diagonal(parted=True), max_matvecs=3, checkpoint=tmp_path, checkpoint_every=1)
    newest = sorted(tmp_path.glob("rows-*-0/*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    result = run(algorithm, Diagonal(parted=True), checkpoint=tmp_path)
    assert "checkpoint damaged, the one before it is used" in caplog.text
    assert torch.equal(result.eigenvalues, run(algorithm, Diagonal(parted=True)).eigenvalues)
    for path in tmp_path.glob("rows-*/*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole"):
        run(algorithm, Diagonal(parted=True), checkpoint=tmp_path)


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of a run: its own error, and a checkpoint to go on from."""
    algorithm = Eigsh(k=2, ncv=8, tol=1e-10, seed=0)
    run(algorithm, Diagonal(parted=True), max_matvecs=4, checkpoint=tmp_path, checkpoint_every=1)
    monkeypatch.setattr(Parted, "full", True)
    with pytest.raises(OSError, match="No space left"):
        run(algorithm, Diagonal(parted=True), checkpoint=tmp_path, checkpoint_every=1)
    monkeypatch.undo()
    result = run(algorithm, Diagonal(parted=True), checkpoint=tmp_path)
    assert torch.equal(result.eigenvalues, run(algorithm, Diagonal(parted=True)).eigenvalues)
