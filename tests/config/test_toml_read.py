"""Reading run files: each way in which a file is none is one clear message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curvkit_core.config import ConfigError, read_toml


def test_toml_is_read_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    """Notepad writes a mark; it is no part of the text."""
    for name, head in (("a.toml", b""), ("b.toml", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(head + 'schema = 1\nname = "é"\r\n'.encode())
        assert read_toml(tmp_path / name) == {"schema": 1, "name": "é"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty: expected TOML tables"),
        (b"# only a comment\n", "is empty: expected TOML tables"),
        (b"a = \n", "is not TOML: Invalid value (at line 1, column 5)"),
        (b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value"),
        (b"kind = core/eigsh\n", "is not TOML: "),
        (b"a = 1\nb = '\xe9'\n", "is not UTF-8: byte 0xe9 in line 2. Save it as UTF-8"),
        ("a = 1".encode("utf-16"), "is not UTF-8: byte 0xff in line 1 (it looks like UTF-16)"),
        (b"a = " + b"[" * 100_000, "is not readable: its lists or tables are nested too deeply"),
        (b"a = " + b"1" * 5000, "is not readable: "),
    ],
)
def test_bad_content_is_one_message(tmp_path: Path, content: bytes, text: str) -> None:
    """The file is named first."""
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {text}")):
        read_toml(path)


def test_what_is_no_file_is_one_message(tmp_path: Path) -> None:
    """A directory names a file inside it, a missing file its near name."""
    (tmp_path / "run.toml").write_text("a = 1")
    inside = re.escape(f"{tmp_path}: is a directory, expected a TOML file such as {str(tmp_path / 'run.toml')!r}")
    with pytest.raises(ConfigError, match=inside):
        read_toml(tmp_path)
    near = re.escape(f"no such file; did you mean {str(tmp_path / 'run.toml')!r}?")
    with pytest.raises(ConfigError, match=near):
        read_toml(tmp_path / "rum.toml")
    with pytest.raises(ConfigError, match="no such file, and no directory"):
        read_toml(tmp_path / "nowhere" / "run.toml")
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        read_toml("a\0b")
