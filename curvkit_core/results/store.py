"""Results on disk: ``result.json`` to read, ``result.safetensors`` for tensors; nothing is ever pickled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from curvkit_core.results.atomic import atomic_folder
from curvkit_core.results.encode import StoredResult, decode, encode, type_name

__all__ = ["StoredResult", "load_result", "read_stored", "save_result", "write_stored"]

JSON_NAME = "result.json"
TENSORS_NAME = "result.safetensors"
SCHEMA = 1
# a list whose items are all numbers, or all true and false, each on a line of its own
_LIST = re.compile(r"\[\n\s*(?:{0}(?:,\n\s*{0})*|{1}(?:,\n\s*{1})*)\n\s*\]".format(r"[-+.\deE]+", "(?:true|false)"))


def save_result(result: Any, folder: str | Path) -> Path:
    """Save a result in a folder of its own, whole or not at all.

    Parameters
    ----------
    result : attrs instance
        Any frozen attrs class of tensors, numbers, strings, tuples, mappings and further such classes.
    folder : str or Path
        Made, with its parents; it must not exist, or be empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything.
    TypeError
        If `result` is no attrs instance or a field cannot be stored.
    """
    if not isinstance(result, StoredResult) and not attrs.has(type(result)):
        msg = f"save_result takes a result (an attrs instance), got {type(result).__name__}."
        raise TypeError(msg)
    tensors: dict[str, Tensor] = {}
    document = {"schema": SCHEMA, "result": encode(result, "result", tensors)}
    with atomic_folder(folder) as temporary:
        write_stored(document, tensors, temporary)
    return Path(folder)


def load_result(folder: str | Path, *, types: Iterable[type] = ()) -> Any:
    """Load what :func:`save_result` saved; no code of the folder's runs.

    Parameters
    ----------
    folder : str or Path
        Holds ``result.json`` and ``result.safetensors``.
    types : iterable of type
        Result classes beside core's that may be built. A result of any other class, or of another version's
        fields, is a read-only :class:`StoredResult`.

    Returns
    -------
    object
        The result, its tensors on the CPU, lists as tuples.

    Raises
    ------
    FileNotFoundError
        If there is no result in the folder.
    ValueError
        If the files are damaged, of a later schema, or hold a whole run (``curvkit_core.runs.load_run``).
    """
    document, tensors = read_stored(folder)
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


def read_stored(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return ``result.json`` of a folder and the tensors beside it, aligned as torch aligns its own.

    The bytes of a file are not: sums over them may round otherwise, and a run that goes on would not be the same.

    Raises
    ------
    FileNotFoundError
        If either is not there.
    ValueError
        If either is damaged or the schema is not ours.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    json_path, tensor_path = folder / JSON_NAME, folder / TENSORS_NAME
    for path in (json_path, tensor_path):
        if not path.is_file():
            msg = f"{path} is not there: expected a folder with {JSON_NAME} and {TENSORS_NAME}."
            raise FileNotFoundError(msg)
    try:
        document = json.loads(json_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{json_path} is not JSON: {error}"
        raise ValueError(msg) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        msg = f"{json_path} has schema {schema!r}: expected {SCHEMA}. A later curvkit may have written it."
        raise ValueError(msg)
    try:
        with safe_open(tensor_path, framework="pt") as stored:
            return document, {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        msg = f"{tensor_path} is damaged: {error}"
        raise ValueError(msg) from error
