"""What a configuration class takes: fields, types, defaults, and the docs from its numpydoc section."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

import attrs
from attrs import frozen

from curvkit_core.config.classes import field_types, key_of, settable_fields
from curvkit_core.config.plain import plain
from curvkit_core.config.toml_write import toml_value
from curvkit_core.config.type_words import bare_type, is_union, type_words

_UNDERLINED = re.compile(r"^(?P<title>\S[^\n]*)\n-{3,}[ \t]*$", re.MULTILINE)
_CITATION = re.compile(r"\s*\[\w+\]_")
_ROLE = re.compile(r":\w+:`([^`]*)`")
_ENTRY = re.compile(r"^(?P<names>\w+(?:\s*,\s*\w+)*)\s*(?::\s*(?P<type>.*))?$")


@frozen(kw_only=True)
class FieldDescription:
    """One key of a table.

    Parameters
    ----------
    name : str
        The key.
    type : str
        As the class's docstring has it (``int, at least 1``), else in a run file's words, ``list of str``.
    required : bool
        Whether it has no default.
    default : object
        None where there is none, or where None is the default.
    doc : str
        From the class's docstring, one paragraph; may be empty.
    fields : tuple of FieldDescription
        The keys of a nested table.
    """

    name: str
    type: str
    required: bool
    default: Any = None
    doc: str = ""
    fields: tuple[FieldDescription, ...] = ()


@frozen(kw_only=True)
class ClassDescription:
    """A configuration class.

    Parameters
    ----------
    name : str
        The class's name.
    summary : str
        The docstring's first paragraph.
    fields : tuple of FieldDescription
        In the order of the class.
    """

    name: str
    summary: str
    fields: tuple[FieldDescription, ...]


def describe(cls: type) -> ClassDescription:
    """Return what an attrs class takes.

    Parameters
    ----------
    cls : type
        An attrs class whose docstring has a numpydoc section ``Parameters`` or ``Attributes``.

    Returns
    -------
    ClassDescription
        Fields that a caller may give, with their docs.
    """
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    docs: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):  # an inherited option is documented where it is defined
        docs |= parameter_docs(base.__dict__.get("__doc__") or "")
    fields = _fields(cls, docs, ())
    return ClassDescription(name=cls.__name__, summary=_summary(text), fields=fields)


def parameter_docs(docstring: str) -> dict[str, tuple[str, str]]:
    """Return each name's type and doc, one paragraph, from the numpydoc sections ``Parameters`` and ``Attributes``."""
    text = inspect.cleandoc(docstring)
    titles = list(_UNDERLINED.finditer(text))
    docs: dict[str, tuple[str, str]] = {}
    for i, title in enumerate(titles):
        if title["title"].strip() not in ("Parameters", "Attributes"):
            continue
        end = titles[i + 1].start() if i + 1 < len(titles) else len(text)
        docs |= _section(text[title.end() : end])
    return docs


def component_toml(header: str, kind: str | None, fields: tuple[FieldDescription, ...]) -> str:
    """Return a block to paste: what has a default stands as it is, what is required or unset is a comment.

    Parameters
    ----------
    header : str
        ``[[algorithm]]`` or ``[problem]``.
    kind : str or None
        The component's name; None for a table that is none, as ``[budget]``.
    fields : tuple of FieldDescription
        Its keys.

    Returns
    -------
    str
        TOML that parses as it stands.
    """
    keys = [] if kind is None else [(f"kind = {toml_value(kind)}", "")]
    for field in fields:
        if field.required:
            keys.append((f"# {field.name} = ", f"required: {field.type}"))
        elif field.default is None:
            keys.append((f"# {field.name} = ", f"{field.type}; unset by default"))
        else:
            keys.append((f"{field.name} = {toml_value(plain(field.default))}", field.type))
    width = max(len(left) for left, _ in keys if len(left) < 48)
    lines = [f"{left:<{width}}  # {right}" if right else left for left, right in keys]
    return "\n".join([header, *lines]) + "\n"


def _fields(cls: type, docs: dict[str, tuple[str, str]], seen: tuple[type, ...]) -> tuple[FieldDescription, ...]:
    types = field_types(cls)
    described = []
    for field in settable_fields(cls):
        tp = types[field.name]
        nested = _nested_class(tp)
        said, doc = docs.get(field.name, docs.get(key_of(field), ("", "")))
        inner: tuple[FieldDescription, ...] = ()
        if nested is not None and nested not in seen:
            inner = _fields(nested, parameter_docs(nested.__doc__ or ""), (*seen, cls))
        described.append(
            FieldDescription(
                name=key_of(field),
                type=said or type_words(tp),
                required=field.default is attrs.NOTHING,
                default=_default(field),
                doc=doc,
                fields=inner,
            )
        )
    return tuple(described)


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    if default is attrs.NOTHING:
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else default.factory()
    return default


def _nested_class(tp: Any) -> type | None:
    tp = bare_type(tp)
    parts = [bare_type(part) for part in get_args(tp)] if is_union(tp) else [tp]
    return next((part for part in parts if isinstance(part, type) and attrs.has(part)), None)


def _summary(text: str) -> str:
    first = text.split("\n\n", 1)[0]
    return "" if first.startswith("Method generated by attrs") else _prose(first)


def _prose(text: str) -> str:
    """Return one paragraph as a terminal shows it: without citations and the names of Sphinx roles."""
    joined = " ".join(text.split())
    return _ROLE.sub(r"\1", _CITATION.sub("", joined))


def _section(text: str) -> dict[str, tuple[str, str]]:
    docs: dict[str, tuple[str, str]] = {}
    names: list[str] = []
    said = ""
    body: list[str] = []

    def close() -> None:
        paragraph = _prose("\n".join(body))
        docs.update(dict.fromkeys(names, (said, paragraph)))

    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry and not line.startswith((" ", "\t")):
            close()
            names, said, body = [name.strip() for name in entry["names"].split(",")], entry["type"] or "", []
        else:
            body.append(line)
    close()
    return docs
