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


class Roles(griffe.Extension):
    """Rewrites the docstrings of everything that is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the roles in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """Math as MathML, cross-references as code, double backticks as single ones."""
    text = _BLOCK.sub(lambda m: convert(" ".join(m[1].split()), display="block") + "\n\n", text)
    text = _MATH.sub(lambda m: convert(" ".join(m[1].split())), text)
    return _ROLE.sub(r"`\1`", text).replace("``", "`")
