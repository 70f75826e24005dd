"""Write a plugin package from the templates: whole, or not at all."""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path
from string import Template as Text

from curvkit_core.errors import CurvkitError
from curvkit_core.scaffold.kinds import KINDS
from curvkit_core.version import PLUGIN_API, __version__

__all__ = ["FIRST_PARTY", "ScaffoldError", "new_plugin"]

FIRST_PARTY = ("hf", "tlens", "triton", "ddp")
RESERVED = ("core", "local")
LONGEST = 40
# of the README's table, where a kind has the file
_ROWS = {
    "config.py": "its options, as run files give them; no torch here",
    "cases.py": "what curvkit's laws try it on, and the right answer by another path",
}


class ScaffoldError(CurvkitError):
    """A package cannot be written: the name, the kind or the folder does not do."""


def new_plugin(name: str, kind: str, folder: str | Path | None = None) -> Path:
    """Write a small package with one component of a kind, its tests and what else a distribution needs.

    Parameters
    ----------
    name : str
        The plugin's namespace: a letter, then ``[a-z0-9-]``. The distribution is called ``curvkit-NAME``.
    kind : str
        One of `KINDS`: ``"operator"``, ``"algorithm"``, ``"loss-adapter"``, ``"backend"``, ``"kernel"``, ``"problem"``.
    folder : str or Path, optional
        Where to write; by default ``curvkit-NAME`` in the current folder. It must not exist, or be empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ScaffoldError
        If the name or the kind does not do, or the folder exists; nothing is written then.
    """
    from curvkit_core.results.atomic import atomic_folder

    if kind not in KINDS:
        from curvkit_core.host.near_names import did_you_mean

        msg = f"kind {kind!r} is unknown{did_you_mean(kind, KINDS)}. Expected one of {', '.join(KINDS)}."
        raise ScaffoldError(msg)
    _check_name(name)
    place = Path(f"curvkit-{name}" if folder is None else folder)
    texts = _texts(name, kind)
    try:
        with atomic_folder(place) as made:
            for path, text in texts.items():
                file = made / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{place} cannot be written: {error}"
        raise ScaffoldError(msg) from error
    return place


def _check_name(name: str) -> None:
    expected = "expected a letter, then letters a-z, digits and single hyphens, as in 'acme' or 'acme-labs'"
    parts = name.split("-")
    plain = name.isascii() and all(part.isalnum() and part == part.lower() for part in parts) and name[:1].isalpha()
    if not plain:
        msg = f"name {name!r} does not do as a namespace: {expected}."
        raise ScaffoldError(msg)
    if len(name) > LONGEST:
        msg = f"name {name!r} has {len(name)} characters: expected at most {LONGEST}."
        raise ScaffoldError(msg)
    if name in RESERVED:
        msg = f"the namespace {name!r} is reserved: choose another name."
        raise ScaffoldError(msg)
    if name in FIRST_PARTY:
        msg = f"the namespace {name!r} is that of curvkit-{name}: choose another name."
        raise ScaffoldError(msg)
    assert not keyword.iskeyword(f"curvkit_{name}"), "the package's name begins with curvkit_"


def _texts(name: str, kind: str) -> dict[str, str]:
    """Path in the package -> what stands there."""
    template = KINDS[kind]
    package = f"curvkit_{name.replace('-', '_')}"
    major, minor, *_ = __version__.split(".")
    words = {
        "name": name,
        "dist": f"curvkit-{name}",
        "package": package,
        "kind": template.noun,
        "article": "An" if template.noun[0] in "aeiou" else "A",
        "component": f"{name}/{template.stem}",
        "module": template.module,
        "cls": template.cls,
        "api": PLUGIN_API,
        # no upper bound: the plugin API is what must fit, and the handshake says so where it does not
        "core_range": f">={major}.{minor}",
        "rows": "".join(
            f"| `src/{package}/{part}` | {what} |\n" for part, what in _ROWS.items() if part in template.parts
        ),
    }
    root = files("curvkit_core.scaffold") / "templates"
    texts = {f"src/{package}/py.typed": ""}
    for source, target in template.files(kind).items():
        text = (root / f"{source}.tmpl").read_text(encoding="utf-8")
        texts[Text(target).substitute(words)] = Text(text).substitute(words)
    return texts
