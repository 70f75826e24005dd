"""What a configuration class takes, as `explain` shows it."""

from __future__ import annotations

import tomllib

from attrs import Factory, field, frozen

from curvkit_core.config import component_toml, describe, structure


@frozen(kw_only=True)
class Inner:
    """Nested.

    Attributes
    ----------
    x : int
        Its x.
    """

    x: int = 1


@frozen(kw_only=True)
class Options:
    r"""Find some
    eigenvalues :math:`A q = \theta q` [1]_.

    Parameters
    ----------
    k : int, at least 1
        How many,

        and more.
    tol, seed : float
        Shared.

    Notes
    -----
    which : not a field
        Not its doc.
    """

    k: int
    tol: float = 1e-4
    seed: int | None = None
    which: str = "LA"
    names: tuple[str, ...] = ("a", 'b"')
    inner: Inner = Factory(Inner)
    hidden: int = field(default=0, init=False)


def test_description_has_fields_types_defaults_and_docs() -> None:
    """Types come from the docstring, else from the annotation; fields that cannot be given are left out."""
    got = describe(Options)
    assert got.summary == r"Find some eigenvalues A q = \theta q."
    rows = {f.name: (f.type, f.required, f.default, f.doc) for f in got.fields}
    assert rows == {
        "k": ("int, at least 1", True, None, "How many, and more."),
        "tol": ("float", False, 1e-4, "Shared."),
        "seed": ("float", False, None, "Shared."),
        "which": ("str", False, "LA", ""),
        "names": ("list of str", False, ("a", 'b"'), ""),
        "inner": ("table", False, Inner(), ""),
    }
    assert [(f.name, f.doc) for f in got.fields[-1].fields] == [("x", "Its x.")]


def test_block_to_paste_parses_and_gives_the_defaults() -> None:
    """What is shown is what is meant: required keys are comments, the rest structures to the defaults."""
    text = component_toml("[[algorithm]]", "acme/x", describe(Options).fields)
    (table,) = tomllib.loads(text)["algorithm"]
    assert table.pop("kind") == "acme/x"
    assert "# k = " in text
    assert "# seed = " in text
    assert structure(Options, {**table, "k": 3}) == Options(k=3)


def test_class_without_docstring_has_no_summary() -> None:
    """attrs and Python write nothing of their own into a description."""

    @frozen
    class Bare:
        x: int = 1

    assert describe(Bare).summary == ""
    assert describe(Bare).fields[0].doc == ""
