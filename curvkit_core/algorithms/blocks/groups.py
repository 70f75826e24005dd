"""Groups of parameters by their names: layers, blocks, single parameters, or globs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from attrs import frozen

from curvkit_core.backends import Segment, VectorSpace

__all__ = ["BY", "Group", "groups_of"]

BY = ("layer", "block", "parameter")


@frozen(kw_only=True)
class Group:
    """A group of parameters, and where they lie in the vectors.

    Parameters
    ----------
    name : str
        A module's name, a parameter's, or the glob.
    segments : tuple of Segment
        Its parameters, in the vectors' order.
    places : tuple of slice
        Where each lies.
    """

    name: str
    segments: tuple[Segment, ...]
    places: tuple[slice, ...]

    @property
    def n(self) -> int:
        """Its size."""
        return sum(segment.numel for segment in self.segments)


def groups_of(space: VectorSpace, by: str | Sequence[str]) -> tuple[Group, ...]:
    """Divide the parameters of a space into groups.

    Parameters
    ----------
    space : VectorSpace
        Its segments carry the parameters' names.
    by : {"layer", "block", "parameter"} or sequence of globs
        ``"layer"``: a group a module, by its name; a parameter of the model itself is a group of its own. ``"block"``:
        a group for each numbered part of a model (``model.layers.3``), and one for each other module at the top.
        ``"parameter"``: a group each. Globs: a group each, by the glob; parameters in none are left out.

    Returns
    -------
    tuple of Group
        In the order of their first parameters.

    Raises
    ------
    ValueError
        If a glob matches nothing, or two share a parameter.
    """
    if isinstance(by, str):
        if by not in BY:
            msg = f"by={by!r} is unknown: expected one of {', '.join(BY)}, or a list of globs."
            raise ValueError(msg)
        names: list[str | None] = [_NAMES[by](segment.name) for segment in space.segments]
    else:
        names = _by_globs(space, tuple(by))
    members: dict[str, list[tuple[Segment, slice]]] = {}
    offset = 0
    for name, segment in zip(names, space.segments, strict=True):
        if name is not None:
            members.setdefault(name, []).append((segment, slice(offset, offset + segment.numel)))
        offset += segment.numel
    return tuple(
        Group(name=name, segments=tuple(s for s, _ in parts), places=tuple(p for _, p in parts))
        for name, parts in members.items()
    )


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def _block(name: str) -> str:
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: i + 1])
    return parts[0]


_NAMES: dict[str, Callable[[str], str]] = {"layer": _layer, "block": _block, "parameter": str}


def _by_globs(space: VectorSpace, globs: tuple[str, ...]) -> list[str | None]:
    if not globs:
        msg = f"by=() is empty: expected at least one glob, or one of {', '.join(BY)}."
        raise ValueError(msg)
    known = [segment.name for segment in space.segments]
    owners = [[glob for glob in globs if fnmatchcase(name, glob)] for name in known]
    for glob in globs:
        if not any(glob in found for found in owners):
            near = difflib.get_close_matches(glob, known, n=3, cutoff=0.4) or known[:3]
            msg = f"by: {glob!r} matches no parameter. Near: {', '.join(near)}."
            raise ValueError(msg)
    for name, found in zip(known, owners, strict=True):
        if len(found) > 1:
            msg = f"by: {name!r} is in {found[0]!r} and {found[1]!r}: expected groups that share no parameter."
            raise ValueError(msg)
    return [found[0] if found else None for found in owners]
