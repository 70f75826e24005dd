"""Results on disk: ``result.json`` to read, ``result.safetensors`` for tensors; nothing is ever pickled.

Vectors that ranks have written, each its part, are in folders beside them, of which ``result.json`` says where they
belong (schema 2; without such vectors it is 1).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from curvkit_core.errors import RankError
from curvkit_core.results.atomic import atomic_folder, temporary_folder
from curvkit_core.results.encode import StoredResult, decode, encode, type_name
from curvkit_core.results.parted_rows import PartedRows, rows_of, with_tensors

if TYPE_CHECKING:
    from curvkit_core.backends import VectorSpace

__all__ = [
    "Reading",
    "StoredResult",
    "load_result",
    "named_parts",
    "parts_of",
    "read_stored",
    "save_result",
    "stored_document",
    "write_stored",
]

JSON_NAME = "result.json"
TENSORS_NAME = "result.safetensors"
ROWS_NAME = "rows"
SCHEMA, PARTED_SCHEMA = 1, 2
_FAILED = 2  # what ranks agree on; a Ctrl-C counts as 1 there
# a list whose items are all numbers, or all true and false, each on a line of its own
_LIST = re.compile(r"\[\n\s*(?:{0}(?:,\n\s*{0})*|{1}(?:,\n\s*{1})*)\n\s*\]".format(r"[-+.\deE]+", "(?:true|false)"))


def save_result(result: Any, folder: str | Path, *, space: VectorSpace | None = None) -> Path:
    """Save a result in a folder of its own, whole or not at all.

    Parameters
    ----------
    result : attrs instance
        Any frozen attrs class of tensors, numbers, strings, tuples, mappings and further such classes.
    folder : str or Path
        Made, with its parents; it must not exist, or be empty.
    space : VectorSpace, optional
        The operator's ``space``, where there are several ranks: all of them call together, with a folder that all see.
        One writes the numbers, and of vectors in shards each its part; none has a whole one. Without it this process
        writes what it has.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything.
    OSError
        If it cannot be written.
    TypeError
        If `result` is no attrs instance or a field cannot be stored.
    RankError
        With `space`, on the other ranks, where one fails.
    """
    if not isinstance(result, StoredResult) and not attrs.has(type(result)):
        msg = f"save_result takes a result (an attrs instance), got {type(result).__name__}."
        raise TypeError(msg)
    if space is not None:
        return _save_together(result, Path(folder), space)
    tensors: dict[str, Tensor] = {}
    document = stored_document({"result": encode(result, "result", tensors)})
    with atomic_folder(folder) as temporary:
        write_stored(document, tensors, temporary)
    return Path(folder)


def _save_together(result: Any, folder: Path, space: VectorSpace) -> Path:
    rows = rows_of(result, space)
    token = f"{space.agree(secrets.randbelow(1 << 24) if space.writes else 0):06x}"
    temporary = temporary_folder(folder, token)
    parts: PartedRows | None = None
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(atomic_folder(folder, token=token))
            (temporary / ROWS_NAME).mkdir()

        def end() -> None:
            tensors: dict[str, Tensor] = {}
            apart: dict[str, tuple[str, PartedRows]] = {}
            if parts is None:
                (temporary / ROWS_NAME).rmdir()
            else:
                parts.check_sizes()  # of a folder that this rank sees alone the others' files are not there
                apart = {ROWS_NAME: ("result", parts)}
            kept = with_tensors(result, rows.get)
            body = {"result": encode(kept, "result", tensors, named_parts(apart))}
            write_stored(stored_document(body, apart), tensors, temporary)
            stack.close()

        _by_one(space, begin, folder)
        if rows and hasattr(space, "write_rows"):  # a StoresRows
            parts = PartedRows.written(temporary / ROWS_NAME, rows, space)
            rows = {} if parts is None else {name: parts.meta(name) for name in parts.rows}
        else:
            rows = {name: space.whole_rows(own) for name, own in rows.items()}
        _by_one(space, end, folder)
    return folder


def _by_one(space: VectorSpace, action: Callable[[], object], folder: Path) -> None:
    """Act on the rank that writes; where that fails, all raise."""
    failed: Exception | None = None
    if space.writes:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - raised when the others have been told
            failed = error
    if space.agree(_FAILED * (failed is not None)) == _FAILED:
        if failed is not None:
            raise failed
        msg = f"the rank that writes could not save the result in {folder}: its own error says why."
        raise RankError(msg)


def load_result(folder: str | Path, *, types: Iterable[type] = (), space: VectorSpace | None = None) -> Any:
    """Load what :func:`save_result` saved; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        Holds ``result.json`` and ``result.safetensors``.
    types : iterable of type
        Result classes beside core's that may be built. A result of any other class, or of another version's
        fields, is a read-only :class:`StoredResult`.
    space : VectorSpace, optional
        An operator's: vectors that were written in parts come as it cuts them, on any number of ranks, which all call
        together. Without it, or in a space of one process, they are whole. Those that were written whole are so always:
        ``space.own_rows`` cuts them.

    Returns
    -------
    object
        The result, its tensors on the CPU, lists as tuples.

    Raises
    ------
    FileNotFoundError
        If there is no result in the folder.
    ValueError
        If the files are damaged, of a later schema, or hold a whole run (``curvkit_core.runs.load_run``). If `space` is
        one of vectors over other parameters.
    """
    document, tensors = read_stored(folder, own_rows_in(space), space=space)
    if "result" not in document:
        what = "a whole run; read it with curvkit_core.runs.load_run" if "runs" in document else "no result"
        msg = f"{Path(folder) / JSON_NAME} holds {what}."
        raise ValueError(msg)
    return decode(document["result"], "result", tensors, result_types(types))


def result_types(extra: Iterable[type] = ()) -> dict[str, type]:
    """Return the classes that loading may build, by the name they are stored under."""
    from curvkit_core.results import types

    core = [getattr(types, name) for name in types.__all__]
    return {type_name(cls): cls for cls in (*core, *extra)}


def write_stored(document: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a document and its tensors into a folder, as :func:`read_stored` reads them.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    (folder / JSON_NAME).write_text(json_text(document), encoding="utf-8")
    try:
        save_file(dict(tensors), folder / TENSORS_NAME)
    except SafetensorError as error:  # a full disk has no class of its own there
        msg = f"{folder / TENSORS_NAME}: {error}"
        raise OSError(msg) from error
    (folder / TENSORS_NAME).chmod((folder / JSON_NAME).stat().st_mode)  # safetensors writes 0600


def json_text(data: Any) -> str:
    """Return JSON for people: indented, with a list of plain numbers on one line; no NaN, which is not JSON."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    return _LIST.sub(lambda found: f"[{' '.join(found.group()[1:-1].split())}]", text) + "\n"


Reading = Callable[[PartedRows, str], Tensor]


def own_rows_in(space: VectorSpace | None) -> Reading:
    """How :func:`read_stored` reads vectors in parts for a space; whole ones for None."""
    if space is None:
        return PartedRows.whole
    return lambda parts, name: parts.own(name, space)


def read_stored(
    folder: str | Path, read: Reading = PartedRows.whole, *, space: VectorSpace | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return ``result.json`` of a folder and the tensors beside it, aligned as torch aligns its own.

    The bytes of a file are not: sums over them may round otherwise, and a run that goes on would not be the same.

    Parameters
    ----------
    folder : str or Path
        As :func:`write_stored` filled it.
    read : callable
        What stands for vectors in parts: ``read(parts, name)``, whole ones unless it is said.
    space : VectorSpace, optional
        Whose ranks call together.

    Raises
    ------
    FileNotFoundError
        If either is not there.
    ValueError
        If a file is damaged or the schema is not ours.
    RankError
        With `space`, where another rank cannot read the folder, or sees another one.
    """
    folder = Path(folder)
    if space is None:
        text, tensors = _files(folder)
    else:
        text, tensors = _files_together(folder, space)
    document = _document(folder, text)
    for above, parts in parts_of(document, folder):
        tensors |= {f"{above}.{name}": read(parts, name) for name in parts.rows}
    return document, tensors


def _files(folder: Path) -> tuple[bytes, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    json_path, tensor_path = folder / JSON_NAME, folder / TENSORS_NAME
    for path in (json_path, tensor_path):
        if not path.is_file():
            msg = f"{path} is not there: expected a folder with {JSON_NAME} and {TENSORS_NAME}."
            raise FileNotFoundError(msg)
    text = json_path.read_bytes()
    _document(folder, text)
    try:
        with safe_open(tensor_path, framework="pt") as stored:
            return text, {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        msg = f"{tensor_path} is damaged: {error}"
        raise ValueError(msg) from error


def _files_together(folder: Path, space: VectorSpace) -> tuple[bytes, dict[str, Tensor]]:
    """The same on ranks that go on to read vectors together: what one of them cannot, none does."""
    failed: Exception | None = None
    text, seen = b"", 0
    tensors: dict[str, Tensor] = {}
    try:
        text, tensors = _files(folder)
        seen = int.from_bytes(hashlib.blake2b(text, digest_size=3).digest(), "little")
    except (OSError, ValueError) as error:
        failed = error
    same = space.agree(seen) == seen
    if space.agree(_FAILED * (failed is not None or not same)) == _FAILED:
        if failed is not None:
            raise failed
        msg = f"a rank cannot read the files in {folder}, or sees others there. Pass a folder that all of them see."
        raise RankError(msg)
    return text, tensors


def _document(folder: Path, text: bytes) -> dict[str, Any]:
    path = folder / JSON_NAME
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise ValueError(msg) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in (SCHEMA, PARTED_SCHEMA):
        msg = (
            f"{path} has schema {schema!r}: expected {SCHEMA} or {PARTED_SCHEMA}. A later curvkit may have written it."
        )
        raise ValueError(msg)
    found: dict[str, Any] = document
    return found


def parts_of(document: Mapping[str, Any], folder: Path) -> list[tuple[str, PartedRows]]:
    """The vectors in parts that a folder's document names, each with the dotted name of the result they belong to.

    Raises
    ------
    ValueError
        If what it says of them is damaged.
    """
    records = document.get("parts", {})
    if not isinstance(records, dict):
        msg = f"{folder / JSON_NAME} says of 'parts' {records!r}: expected a table."
        raise ValueError(msg)
    found = []
    for name, record in records.items():
        if Path(name).name != name or not isinstance(record, dict):
            msg = f"{folder / JSON_NAME} names {name!r} as a folder of vectors: expected one that lies beside it."
            raise ValueError(msg)
        found.append((str(record.get("of")), PartedRows.of_record(folder / name, record)))
    return found


def stored_document(
    body: Mapping[str, Any], parts: Mapping[str, tuple[str, PartedRows]] | None = None
) -> dict[str, Any]:
    """``result.json``'s document.

    Parameters
    ----------
    body : mapping
        The result, or the runs.
    parts : mapping of str to (str, PartedRows), optional
        The vectors that are not in the table of tensors: by the folder beside the document, with the dotted name of the
        result they belong to.
    """
    if not parts:
        return {"schema": SCHEMA, **body}
    records = {name: {"of": above, **rows.record()} for name, (above, rows) in parts.items()}
    return {"schema": PARTED_SCHEMA, **body, "parts": records}


def named_parts(parts: Mapping[str, tuple[str, PartedRows]]) -> dict[str, str]:
    """The folder of each vector by its dotted name, as :func:`encode` takes it."""
    return {f"{above}.{name}": folder for folder, (above, rows) in parts.items() for name in rows.rows}
