"""The loss along directions and on a plane."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.results.notebook import ShowsItself
from curvkit_core.results.tables import data_frame

__all__ = ["PlaneResult", "SliceResult"]


@frozen(kw_only=True, eq=False)
class SliceResult(ShowsItself):
    r"""The loss :math:`L(\theta + t q)` along unit directions q, beside the parabola that the curvature predicts.

    Parameters
    ----------
    loss : float
        :math:`L(\theta)`.
    steps : Tensor, shape (d, p), float64
        t, in the parameters' unit; 0 in the middle.
    losses : Tensor, shape (d, p), float64
        The loss there.
    parabola : Tensor, shape (d, p), float64
        :math:`L + t\,g^\top q + t^2 q^\top H q/2`.
    slopes, curvatures : Tensor, shape (d,), float64
        :math:`g^\top q` and :math:`q^\top H q`.
    seen_curvatures, seen_errors : Tensor, shape (d,), float64
        The second derivative at t = 0 that the losses alone show, and how well: an estimate of the differences' error,
        truncation and rounding together. Where ``curvatures`` lies outside of it, one of the two is wrong.
    error_covers : str
        In words, what ``seen_errors`` covers.
    """

    loss: float
    steps: Tensor
    losses: Tensor
    parabola: Tensor
    slopes: Tensor
    curvatures: Tensor
    seen_curvatures: Tensor
    seen_errors: Tensor
    error_covers: str = (
        "truncation and rounding of second differences of the loss; sampling of the data is not included"
    )


@frozen(kw_only=True, eq=False)
class PlaneResult(ShowsItself):
    r"""The loss :math:`L(\theta + s q_1 + t q_2)`.

    Parameters
    ----------
    first_steps, second_steps : Tensor, shape (p,), float64
        s and t.
    losses : Tensor, shape (p, p), float64
        A row an s, a column a t.
    """

    first_steps: Tensor
    second_steps: Tensor
    losses: Tensor

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``, a row a point of the plane."""
        first, second = torch.meshgrid(self.first_steps, self.second_steps, indexing="ij")
        points = zip(*(t.flatten().tolist() for t in (first, second, self.losses)), strict=True)
        return data_frame([{"first_step": s, "second_step": t, "loss": loss} for s, t, loss in points])
