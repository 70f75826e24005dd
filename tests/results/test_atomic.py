"""Whole or not at all: no half file, no half folder, nothing left behind."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from curvkit_core.results import atomic
from curvkit_core.results.atomic import atomic_folder, write_bytes, write_text


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new content stands, as UTF-8, and no temporary file stays."""
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "né\n")
    assert (tmp_path / "a.txt").read_bytes() == b"n\xc3\xa9\n"
    assert listing(tmp_path) == ["a.txt"]


def test_file_keeps_its_old_content_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the last moment: the old file is as it was."""
    write_text(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_folder_appears_whole_with_usual_permissions(tmp_path: Path) -> None:
    """Nothing is at the place before the block ends; parents are made; permissions are mkdir's, not mkdtemp's."""
    target = tmp_path / "x" / "run"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert listing(tmp_path) == ["x", "x/run", "x/run/a"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failed_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """The parents made for it go, too; what was there before stays."""
    with pytest.raises(error), atomic_folder(tmp_path / "x" / "y" / "run") as temporary:
        (temporary / "a").write_text("1")
        raise error
    assert listing(tmp_path) == []


def test_existing_folder_is_refused_or_replaced(tmp_path: Path) -> None:
    """Without replace a folder with content, a file and a link are refused; with it the old content is gone."""
    target = tmp_path / "run"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(FileExistsError, match="run exists and is not empty"), atomic_folder(target):
        pytest.fail("the block must not begin")
    with atomic_folder(target, replace=True) as temporary:
        (temporary / "new").write_text("2")
    assert listing(tmp_path) == ["run", "run/new"]
    with pytest.raises(RuntimeError), atomic_folder(target, replace=True):
        raise RuntimeError
    assert listing(tmp_path) == ["run", "run/new"]
    (tmp_path / "file").write_text("3")
    with pytest.raises(FileExistsError, match="is not a folder"), atomic_folder(tmp_path / "file", replace=True):
        pytest.fail("the block must not begin")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(FileExistsError, match="is not a folder"), atomic_folder(tmp_path / "link", replace=True):
        pytest.fail("the block must not begin")


def test_folder_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Another process was first: its folder stays, ours vanishes."""
    target = tmp_path / "run"
    with pytest.raises(FileExistsError), atomic_folder(target) as temporary:
        (temporary / "a").write_text("ours")
        target.mkdir()
        (target / "a").write_text("theirs")
    assert (target / "a").read_text() == "theirs"
    assert listing(tmp_path) == ["run", "run/a"]
