"""Text from files, and tokens of it: whole sequences, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["documents", "packed"]


def documents(path: str, field: str) -> Iterator[str]:
    """The texts of a file, or of a folder's .txt, .md and .jsonl files by name: a file each, a .jsonl file's line each.

    Folders in the folder are not looked into.

    Raises
    ------
    ValueError
        If there is nothing to read, or a line is no JSON object with the field.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in (".txt", ".md", ".jsonl") and file.is_file())
        if not files:
            msg = f"text={path!r}: the folder has no .txt, .md or .jsonl file."
            raise ValueError(msg)
    elif place.is_file():
        files = [place]
    else:
        msg = f"text={path!r}: no such file or folder. Paths are seen from where the command is run."
        raise ValueError(msg)
    for file in files:
        if file.suffix == ".jsonl":
            yield from _lines(file, field)
        else:
            yield file.read_text(encoding="utf-8")


def packed(
    texts: Iterable[str], encode: Callable[[str], list[int]], *, length: int, sequences: int | None, between: int | None
) -> Tensor:
    """Tokens (N, length): the texts one after another, token `between` after each; what is left over is dropped.

    Reads no further than `sequences` need.

    Raises
    ------
    ValueError
        If there are fewer tokens than one sequence has.
    """
    enough = None if sequences is None else sequences * length
    tokens: list[int] = []
    for text in texts:
        tokens += encode(text)
        if between is not None:
            tokens.append(between)
        if enough is not None and len(tokens) >= enough:
            break
    count = len(tokens) // length if sequences is None else min(sequences, len(tokens) // length)
    if not count:
        msg = f"the text has {len(tokens)} tokens: expected at least sequence_length={length}. Give more text, or less."
        raise ValueError(msg)
    return torch.tensor(tokens[: count * length]).view(count, length)


def _lines(file: Path, field: str) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                msg = f"{file}:{number} is no JSON: {error}."
                raise ValueError(msg) from error
            text = record.get(field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                msg = f"{file}:{number} has no text under {field!r}: it has {keys}. Set text_field."
                raise ValueError(msg)
            yield text
