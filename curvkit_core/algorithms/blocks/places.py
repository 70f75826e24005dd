"""Inner products within groups of parameters: what of a vector lies in a group's places, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curvkit_core.algorithms.blocks.groups import groups_of
from curvkit_core.backends import VectorSpace

__all__ = ["Places", "places_of", "scale_within", "square_within", "within"]

Places = tuple[tuple[int, int], ...]


def places_of(space: VectorSpace, by: str | tuple[str, ...]) -> tuple[Places, ...]:
    """Where each group lies. On shards a place a parameter, so that all ranks have as many, some of them empty."""
    places = [group.places for group in groups_of(space, by)]
    if type(space) is not VectorSpace:  # also on a rank that happens to have every element: it keeps step with the rest
        return tuple(tuple((place.start, place.stop) for place in own) for own in places)
    return tuple(_merged(own) for own in places)


def _merged(places: Sequence[slice]) -> Places:
    """The places as (low, high), those that touch as one."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place.start:
            found[-1] = (found[-1][0], place.stop)
        else:
            found.append((place.start, place.stop))
    return tuple(found)


def within(space: VectorSpace, A: Tensor, B: Tensor, places: Places) -> Tensor:
    """Inner products over a group's places alone, (k, m) in float64."""
    return torch.stack([space.gram(A[:, low:high], B[:, low:high]) for low, high in places]).sum(dim=0)


def square_within(space: VectorSpace, row: Tensor, places: Places) -> float:
    """The square of a row's norm over a group's places alone."""
    return float(within(space, row, row, places)[0, 0])


def scale_within(row: Tensor, places: Places, factor: float) -> None:
    """Multiply a row in a group's places, in place."""
    for low, high in places:
        row[:, low:high] *= factor
