"""Results whose vectors lie in parts: saved and loaded through a space, and what is damaged is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from safetensors.torch import load_file
from torch import Tensor

from curvkit_core import load_result, save_result
from curvkit_core.backends import Segment, StoresRows, VectorSpace
from curvkit_core.errors import RankError
from curvkit_core.results.combined import CombinedResult
from curvkit_core.results.parted_rows import PartedRows, rows_of, with_tensors
from curvkit_core.results.row_parts import read_parts, write_part
from curvkit_core.results.types import EigenResult, TraceResult

F64 = torch.float64
SEGMENTS = (Segment(name="a.weight", numel=12, row=3), Segment(name="b", numel=5), Segment(name="c.weight", numel=8))
N = 25


class Parted(VectorSpace):
    """One process that writes its vectors as two ranks would: the first entry of each parameter, and the rest."""

    full = False

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.full:
            msg = "No space left on device"
            raise OSError(28, msg)
        files = {}
        for file, first in (("part-00000.safetensors", True), ("part-00001.safetensors", False)):
            tensors, offsets = {}, {}
            for name, own in rows.items():
                low = 0
                for s in self.segments:
                    entries = own[..., low : low + s.numel].unflatten(-1, (-1, s.row))
                    key = f"{name}/{s.name}"
                    tensors[key] = entries[..., :1, :] if first else entries[..., 1:, :]
                    offsets[key] = (*(0,) * (own.ndim - 1), 0 if first else 1, 0)
                    low += s.numel
            files[file] = write_part(folder / file, tensors, offsets)
        return files

    def read_rows(self, folder: Path, name: str, files: Mapping[str, Any]) -> Tensor:
        return read_parts(folder, name, files, self.layout)


class Other(VectorSpace):
    """A rank that does not write, where the one that does has failed."""

    writes = False

    def agree(self, value: int) -> int:
        return max(value, 2)


@frozen(kw_only=True, eq=False)
class Named:
    """A third party's result, with vectors by parameter."""

    table: dict[str, Tensor]
    several: tuple[Tensor, ...]
    small: Tensor


@pytest.fixture
def space() -> Parted:
    return Parted(SEGMENTS, dtype=F64)


@pytest.fixture
def result() -> CombinedResult:
    """Eigenpairs and a trace."""
    draw = torch.Generator().manual_seed(0)
    eigen = EigenResult(
        eigenvalues=torch.tensor([2.0, 1.0], dtype=F64),
        eigenvectors=torch.randn(2, N, dtype=F64, generator=draw),
        residuals=torch.tensor([1e-9, 1e-8], dtype=F64),
        converged=torch.tensor([True, False]),
        num_matvecs=9,
    )
    trace = TraceResult(estimate=3.0, stderr=0.5, num_matvecs=4, method="hutchinson", seed=1)
    return CombinedResult(results=(eigen, trace), num_matvecs=13)


def vectors(found: Any) -> Tensor:
    return found.results[0].eigenvectors


def test_vectors_are_saved_in_parts_and_loaded_whole(space: Parted, result: CombinedResult, tmp_path: Path) -> None:
    """Bit for bit, by one process with no space, with a plain one, and with one that stores rows."""
    assert isinstance(space, StoresRows)
    assert save_result(result, tmp_path / "r", space=space) == tmp_path / "r"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["result.json", "result.safetensors", "rows"]
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]  # nothing is left over
    document = json.loads((tmp_path / "r" / "result.json").read_text())
    assert document["schema"] == 2
    note = document["result"]["results"][0]["eigenvectors"]
    assert note == {"$tensor": "result.results.0.eigenvectors", "shape": [2, N], "dtype": "float64", "parts": "rows"}
    assert max(t.numel() for t in load_file(tmp_path / "r" / "result.safetensors").values()) == 2
    assert (tmp_path / "r/rows/part-00000.safetensors").stat().st_mode == (tmp_path / "r/result.json").stat().st_mode
    for own in (None, VectorSpace(SEGMENTS, dtype=F64), space):
        found = load_result(tmp_path / "r", types=[CombinedResult], space=own)
        assert torch.equal(vectors(found), vectors(result))
        assert found.results[0].converged.tolist() == [True, False]
        assert found.results[1].estimate == 3.0
    turned = load_result(tmp_path / "r", types=[CombinedResult], space=VectorSpace(SEGMENTS[::-1], dtype=F64))
    assert torch.equal(vectors(turned)[:, :8], vectors(result)[:, 17:])
    # what was loaded can be saved again, whole
    save_result(load_result(tmp_path / "r"), tmp_path / "again")
    assert json.loads((tmp_path / "again/result.json").read_text())["schema"] == 1


def test_a_space_of_whole_vectors_changes_nothing(result: CombinedResult, tmp_path: Path) -> None:
    """The same files as with no space."""
    save_result(result, tmp_path / "without")
    save_result(result, tmp_path / "with", space=VectorSpace(SEGMENTS, dtype=F64))
    for name in ("result.json", "result.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "with").iterdir()) == ["result.json", "result.safetensors"]


def test_vectors_anywhere_in_a_result_are_found(space: Parted, tmp_path: Path) -> None:
    """In mappings, whose keys may have strokes, and in tuples of tensors; what is no vector stays."""
    draw = torch.Generator().manual_seed(1)
    made = Named(
        table={"a/b%2Fc": torch.randn(N, dtype=F64, generator=draw), "short": torch.ones(3, dtype=F64)},
        several=(torch.randn(3, N, dtype=F64, generator=draw), torch.zeros(0, N, dtype=F64)),
        small=torch.eye(3, dtype=F64),
    )
    assert sorted(rows_of(made, space)) == ["several.0", "several.1", "table.a/b%2Fc"]
    save_result(made, tmp_path / "r", space=space)
    found = load_result(tmp_path / "r", types=[Named], space=space)
    assert torch.equal(found.table["a/b%2Fc"], made.table["a/b%2Fc"])
    assert torch.equal(found.several[0], made.several[0]) and found.several[1].shape == (0, N)
    assert torch.equal(found.small, made.small) and torch.equal(found.table["short"], made.table["short"])
    unknown = load_result(tmp_path / "r")
    save_result(unknown, tmp_path / "again", space=space)
    assert torch.equal(load_result(tmp_path / "again")["several"][0], made.several[0])
    twice = evolve(made, table={"x": {"y": made.several[0]}, "x.y": made.several[0]})
    with pytest.raises(ValueError, match=r"two fields of vectors are called 'table.x.y'"):
        rows_of(twice, space)


def test_what_is_unchanged_is_the_same_object(result: CombinedResult) -> None:
    """No copy of a result whose tensors stay."""
    assert with_tensors(result, lambda _, t: t) is result
    changed = with_tensors(result, lambda name, t: t + 1 if name == "results.0.eigenvalues" else t)
    assert changed.results[0].eigenvalues.tolist() == [3.0, 2.0]
    assert changed.results[1] is result.results[1]


def test_failed_save_leaves_nothing(space: Parted, result: CombinedResult, tmp_path: Path) -> None:
    """A full disk, a folder that is taken, a field that has no file; the other ranks hear of it."""
    space.full = True
    with pytest.raises(OSError, match="No space left"):
        save_result(result, tmp_path / "new" / "r", space=space)
    space.full = False
    with pytest.raises(TypeError, match=r"result.num_matvecs holds a .*Path"):
        save_result(evolve(result, num_matvecs=tmp_path), tmp_path / "new" / "r", space=space)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a folder"):
        save_result(result, tmp_path / "taken", space=space)
    with pytest.raises(RankError, match="the rank that writes could not save the result in .*: its own error says why"):
        save_result(result, tmp_path / "r", space=Other(SEGMENTS, dtype=F64))
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_vectors_without_elements_are_not_saved(result: CombinedResult, tmp_path: Path) -> None:
    """A tensor on the device meta, of which there are no files."""
    empty = with_tensors(result, lambda _, t: t.to("meta") if t.ndim == 2 else t)
    with pytest.raises(TypeError, match=r"result.results.0.eigenvectors has no elements in this process"):
        save_result(empty, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def without(path: Path, content: bytes) -> None:
    path.unlink()


def cut(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path, content: bytes) -> None:
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("spoil", [without, cut, flipped])
@pytest.mark.parametrize("whole", [True, False])
def test_damaged_part_is_named(space: Parted, result: CombinedResult, tmp_path: Path, spoil: Any, whole: bool) -> None:
    """Missing, cut short, one bit changed: by the file's name, with and without a space."""
    save_result(result, tmp_path / "r", space=space)
    path = tmp_path / "r" / "rows" / "part-00001.safetensors"
    spoil(path, path.read_bytes())
    with pytest.raises(ValueError, match=r"rows: part-00001.safetensors: "):
        load_result(tmp_path / "r", space=None if whole else space)


DAMAGE = {
    "leads out": (lambda rows: rows["files"].update({"../x": {"bytes": 1, "hashes": {}}}), r"'../x' is no file's name"),
    "no hashes": (lambda rows: rows["files"]["part-00000.safetensors"].pop("hashes"), r"damaged: KeyError: 'hashes'"),
    "no layout": (lambda rows: rows.pop("layout"), r"damaged: KeyError: 'layout'"),
    "a parameter is gone": (lambda rows: rows["layout"].pop("b"), r"parameter 'b', which is not among those"),
    "a parameter is longer": (lambda rows: rows["layout"].update(b=6), r"has 50 elements of .*, expected 52"),
    "a parameter is shorter": (lambda rows: rows["layout"].update(b=4), r"is no part of rows \(2, 24\)"),
    "a parameter is huge": (lambda rows: rows["layout"].update(b=10**15), r"too few for rows \(2, 1000000000000020\)"),
    "a size is negative": (lambda rows: rows["layout"].update(b=-5), r"-5 is no size"),
    "a size is text": (lambda rows: rows["layout"].update(b="5"), r"'5' is no size"),
    "another dtype": (
        lambda rows: rows["rows"]["results.0.eigenvectors"].update(dtype="float32"),
        r"expected .*float32",
    ),
    "no dtype": (lambda rows: rows["rows"]["results.0.eigenvectors"].update(dtype="load"), r"'load' is no dtype"),
    "another shape": (lambda rows: rows["rows"]["results.0.eigenvectors"].update(shape=[3, N]), r"expected \(3, 25\)"),
    "a file is not named": (
        lambda rows: rows["files"].pop("part-00001.safetensors"),
        r"has 10 elements .*, expected 50",
    ),
    "of no result": (lambda rows: rows.update(of="other"), r"tensor 'result.results.0.eigenvectors' is missing"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_record_is_named(space: Parted, result: CombinedResult, tmp_path: Path, what: str) -> None:
    """What result.json says of the parts is checked, and leads to no file elsewhere."""
    save_result(result, tmp_path / "r", space=space)
    path = tmp_path / "r" / "result.json"
    document = json.loads(path.read_text())
    change, text = DAMAGE[what]
    change(document["parts"]["rows"])
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=text):
        load_result(tmp_path / "r")


@pytest.mark.parametrize(("parts", "text"), [([], "says of 'parts'"), ({"../rows": {}}, "names '../rows' as a folder")])
def test_folders_of_parts_lie_beside_the_document(
    space: Parted, result: CombinedResult, tmp_path: Path, parts: Any, text: str
) -> None:
    """And nowhere else."""
    save_result(result, tmp_path / "r", space=space)
    path = tmp_path / "r" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parts": parts}))
    with pytest.raises(ValueError, match=text):
        load_result(tmp_path / "r")


def test_space_of_other_vectors_is_refused(space: Parted, result: CombinedResult, tmp_path: Path) -> None:
    """Both sizes are told."""
    save_result(result, tmp_path / "r", space=space)
    with pytest.raises(ValueError, match=r"over 3 parameters \(a.weight, b, c.weight\), n = 25, the space's .* n = 17"):
        load_result(tmp_path / "r", space=Parted(SEGMENTS[:2], dtype=F64))


def test_space_that_tells_its_own_part_alone_is_refused(result: CombinedResult, tmp_path: Path) -> None:
    """A third party's space whose layout has local sizes."""

    class Half(Parted):
        @property
        def n(self) -> int:
            return 2 * N

    with pytest.raises(ValueError, match=r"Half.layout has 25 elements, expected n=50: those of all ranks"):
        save_result(result, tmp_path / "r", space=Half(SEGMENTS, dtype=F64))
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_see_other_files_are_told(space: Parted, result: CombinedResult, tmp_path: Path) -> None:
    """Before any of them waits for the others."""

    class Blind(Parted):
        def agree(self, value: int) -> int:
            return value if value <= 2 else 1 << 24  # another rank's hash

    save_result(result, tmp_path / "r", space=space)
    with pytest.raises(RankError, match="a rank cannot read the files in .*, or sees others there"):
        load_result(tmp_path / "r", space=Blind(SEGMENTS, dtype=F64))


def test_copy_of_parts_needs_no_links(
    space: Parted, result: CombinedResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By links, which are the same file; else by copies of it."""
    (tmp_path / "rows").mkdir()
    parts = PartedRows.written(tmp_path / "rows", rows_of(result, space), space)
    assert parts is not None
    linked = parts.copied_to(tmp_path / "linked")
    name = next(iter(parts.files))
    assert (linked.folder / name).samefile(parts.folder / name)

    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", refused)
    copied = parts.copied_to(tmp_path / "copied")
    assert not (copied.folder / name).samefile(parts.folder / name)
    shutil.rmtree(parts.folder)
    assert torch.equal(copied.whole("results.0.eigenvectors"), vectors(result))
    (copied.folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not there, expected "):
        copied.check_sizes()


def test_vectors_on_disk_are_shown_by_shape(result: CombinedResult) -> None:
    """In a notebook, and left out of NumPy and pandas, where their elements would be asked for."""
    eigen = evolve(result.results[0], eigenvectors=torch.empty(2, N, dtype=F64, device="meta"))
    assert "(2, 25) float64, not read from disk" in eigen._repr_html_()
    assert set(result.results[0].to_numpy()) - set(eigen.to_numpy()) == {"eigenvectors"}
    assert eigen.to_numpy()["eigenvalues"].tolist() == [2.0, 1.0]
