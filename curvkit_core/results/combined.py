"""Results of several algorithms that were driven together, or one after the other."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["CombinedResult"]


@frozen(kw_only=True, eq=False)
class CombinedResult(ShowsItself):
    """The results of the algorithms of a `Together` or a `Chain`, in their order.

    Parameters
    ----------
    results : tuple
        One an algorithm; None for one that was not begun.
    num_matvecs : int
        Products used by all.
    info : ResultInfo or None
        Filled in by the driver, as in each of the results.
    """

    results: tuple[Any, ...]
    num_matvecs: int
    info: ResultInfo | None = None
