"""Documents of text, from files, folders, JSON lines and data sets, one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["documents"]

_DATASETS = "datasets:"
_IN_FOLDERS = (".jsonl", ".md", ".txt")


def documents(text: str, *, field: str = "text", subset: str | None = None, split: str = "train") -> Iterator[str]:
    """Every document of a source, empty ones left out: a file is one, a JSON line is one, a data set's row is one.

    Parameters
    ----------
    text : str
        A file, a folder, or ``datasets:NAME``.
    field : str
        Where a JSON line or a row has its text.
    subset, split : str
        Of a data set.

    Raises
    ------
    ValueError
        If the source is not there, or a line or row has no such text; files and lines are named.
    """
    if text.startswith(_DATASETS):
        yield from _rows(text.removeprefix(_DATASETS), field, subset, split)
        return
    path = Path(text)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _IN_FOLDERS and file.is_file())
        if not files:
            msg = f"text={text!r}: the folder holds no file that ends in {', '.join(_IN_FOLDERS)}."
            raise ValueError(msg)
    elif path.is_file():
        files = [path]
    else:
        msg = f"text={text!r}: no such file or folder. A data set is written 'datasets:NAME'."
        raise ValueError(msg)
    for file in files:
        found = _lines(file, field) if file.suffix == ".jsonl" else [_content(file)]
        yield from (document for document in found if document.strip())


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"text={str(file)!r} is no UTF-8 text (byte {error.start}). Convert it, or name another file."
        raise ValueError(msg) from None


def _lines(file: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_content(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            msg = f"text={str(file)!r}, line {number} is no JSON: {error}."
            raise ValueError(msg) from None
        yield _text_of(row, field, f"{file}, line {number}")


def _text_of(row: object, field: str, where: str) -> str:
    value = row.get(field) if isinstance(row, dict) else None
    if isinstance(value, str):
        return value
    seen = f"the fields {', '.join(map(str, row))}" if isinstance(row, dict) else f"a {type(row).__name__}"
    msg = f"text_field={field!r}: {where} has {seen}, and no text there. Set text_field to the field with the text."
    raise ValueError(msg)


def _rows(name: str, field: str, subset: str | None, split: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        msg = f"text='{_DATASETS}{name}' needs the package datasets. Install it: pip install \"curvkit-hf[datasets]\"."
        raise ValueError(msg) from None
    try:
        rows = load_dataset(name, subset, split=split)
    except Exception as error:  # a data set that is not there, a network that is not there: many kinds
        msg = f"text='{_DATASETS}{name}' could not be loaded ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    for number, row in enumerate(rows):
        document = _text_of(row, field, f"row {number} of {name}")
        if document.strip():
            yield document
