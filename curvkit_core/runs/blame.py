"""Whose fault an error is: the option it names, the component it came from, the line of the user's file."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import attrs

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.errors import CurvkitError
from curvkit_core.runs.plan import PlannedComponent

_NAMED = re.compile(r"'?(?P<field>[A-Za-z_]\w*)'?\s*(?:=|must\b)")
_PACKAGE = str(Path(__file__).parent.parent)
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def blamed(component: PlannedComponent, error: BaseException) -> Mistake:
    """Return an error as a mistake in the run file.

    Parameters
    ----------
    component : PlannedComponent
        Where it came from.
    error : BaseException
        What its factory or its ``init`` raised.

    Returns
    -------
    Mistake
        At the option that the text begins with, ``k=20 is ...``, else at the component, with the line of the user's
        own file that it came from. An error that nobody worded for a reader is told with its type.
    """
    if isinstance(error, ConfigError):
        text = "; ".join(f"{m.path} {m.text}".strip() for m in error.mistakes)
        return Mistake(component.path, text)
    text = str(error)
    place = raised_at(error)
    if isinstance(error, CurvkitError):
        return Mistake(component.path, text)
    if not (isinstance(error, (ValueError, TypeError)) and text and _raised_on_purpose(error)):
        return Mistake(component.path, f"{component.name} failed with {type(error).__name__}: {text}{place}")
    match = _NAMED.match(text)
    known = attrs.fields_dict(type(component.config)) if attrs.has(type(component.config)) else {}
    if match is not None and match["field"] in known:
        return Mistake(f"{component.path}.{match['field']}", text)
    return Mistake(component.path, text + place)


def _raised_on_purpose(error: BaseException) -> bool:
    """Tell an error that somebody worded from one that Python made, such as a call with wrong arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and (frames[-1].line or "").startswith("raise")


def raised_at(error: BaseException) -> str:
    """Return the line of the user's own file that an error came from, or an empty string."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((_PACKAGE, *_INSTALLED, "<"))]
    if not own or frames[-1].filename.startswith(_PACKAGE):
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})"
