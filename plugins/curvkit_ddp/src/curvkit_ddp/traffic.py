"""What a sharded product sends, and how much of the model is whole at a time: counted, so that a cost model is held."""

from __future__ import annotations

from attrs import define

__all__ = ["Traffic"]


@define
class Traffic:
    """Counts since :meth:`reset`.

    Parameters
    ----------
    weight_gathers, vector_gathers : int
        All-gathers of a block's weights, and of a block's part of a vector.
    reductions : int
        Reduce-scatters of a block's gradients.
    elements : int
        Elements of the wholes that these made or took: a ring sends (N - 1)/N of them per rank.
    most_whole : int
        The most blocks any of whose weights were whole at one time.
    """

    weight_gathers: int = 0
    vector_gathers: int = 0
    reductions: int = 0
    elements: int = 0
    most_whole: int = 0

    def reset(self) -> None:
        """Begin anew."""
        self.weight_gathers = self.vector_gathers = self.reductions = self.elements = self.most_whole = 0
