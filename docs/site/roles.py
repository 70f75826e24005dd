"""Docstrings are written for `help()`, with Sphinx roles; here they become what Markdown and a browser know.

``:math:`` becomes MathML, which browsers draw by themselves: no script, no font, no other server.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

__all__ = ["Roles"]

_MATH = re.compile(r":math:`((?:[^`]|\n)+)`")
_BLOCK = re.compile(r"^\.\. math::\n\n((?:    .*\n|\n)+)", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]+)`")
_CITED = re.compile(r"\[(\d+)\]_")
_REFERENCE = re.compile(r"^\.\. \[(\d+)\] ", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrites the docstrings of everything that is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the roles in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """Math as MathML, cross-references as code, double backticks as single ones, references as a list."""
    text = _BLOCK.sub(lambda m: convert(" ".join(m[1].split()), display="block") + "\n\n", text)
    # inside a span: Markdown takes a line that begins with <math> for a block of its own
    text = _MATH.sub(lambda m: f"<span>{convert(' '.join(m[1].split()))}</span>", text)
    text = _CITED.sub(r"\\[\1\\]", _REFERENCE.sub(r"- \\[\1\\] ", text))
    return _ROLE.sub(r"`\1`", text).replace("``", "`")
