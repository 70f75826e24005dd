"""``"pkg.module:attr"``: how specs name code without importing it."""

from __future__ import annotations

import importlib
from typing import Any

from curvkit_core.errors import UnavailableComponentError
from curvkit_core.host.texts import one_line


def is_reference(text: str) -> bool:
    """Tell whether `text` is ``"pkg.module:attr"``.

    Examples
    --------
    >>> is_reference("acme.kfac:build"), is_reference("acme.kfac.build"), is_reference("./kfac.py:build")
    (True, False, False)
    """
    module, colon, path = text.partition(":")
    return bool(colon) and text.isascii() and all(part.isidentifier() for part in f"{module}.{path}".split("."))


def resolve(reference: str, what: str) -> Any:
    """Import what ``"pkg.module:attr"`` names.

    Parameters
    ----------
    reference : str
        ``"pkg.module:attr"``; the attribute may be dotted.
    what : str
        Whose it is, for the error: ``"operator 'acme/kfac': its factory"``.

    Returns
    -------
    object

    Raises
    ------
    UnavailableComponentError
        If the text is malformed, the module cannot be imported (whatever it raised, SystemExit
        included), or it has no such attribute.
    """
    if not is_reference(reference):
        msg = f"{what} {reference!r} is malformed: expected 'pkg.module:attr'."
        raise UnavailableComponentError(msg)
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        msg = f"{what} {reference!r} failed at import: {one_line(error)}"
        raise UnavailableComponentError(msg) from error
    seen = module_name
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            from curvkit_core.host.near_names import did_you_mean

            near = did_you_mean(part, [n for n in dir(found) if not n.startswith("_")])
            msg = f"{what} {reference!r}: {seen} was imported, it has no attribute {part!r}{near}"
            raise UnavailableComponentError(msg) from error
        except (Exception, SystemExit) as error:  # a lazy package imports here
            msg = f"{what} {reference!r} failed at import: {one_line(error)}"
            raise UnavailableComponentError(msg) from error
        seen = f"{seen}.{part}"
    return found
