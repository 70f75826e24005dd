"""Where a result comes from: the record that the driver puts into every result."""

from __future__ import annotations

from typing import Any

from attrs import Factory, frozen

__all__ = ["ResultInfo"]


@frozen(kw_only=True, eq=False)
class ResultInfo:
    """Where a result comes from: enough to repeat it and to judge it.

    Parameters
    ----------
    operator, algorithm : str
        Class names, or the names in the registry where a run file made the result.
    options : dict
        The algorithm's configuration, field by field.
    num_matvecs : int
        Products of the operator with one vector.
    seconds : float
        Wall time of the run, products included.
    seed : int or None
        The seed that was used, also when it was drawn; None where nothing is random.
    dtype, device : str
        Of the vectors.
    n : int
        The operator's size.
    weighting : str
        How the data are averaged: ``"unit"`` or ``"batch-mean"``; empty for an operator without data.
    units : float or None
        What the data's sum is divided by (examples or target tokens); None for an operator without data.
    strategy : str
        How products are made.
    error_covers : str
        In words: what the result's error speaks of, and what it leaves out.
    converged : bool or None
        None where the algorithm has no such notion.
    interrupted : str
        Empty, or what ended the run early: ``"matvecs"``, ``"seconds"`` or ``"keyboard"``.
    parameter_names : tuple of str
        The parameters the operator speaks of.
    findings : tuple of str
        What the checks could not tell, a line each.
    versions : dict
        Package versions.
    """

    operator: str
    algorithm: str
    options: dict[str, Any] = Factory(dict)
    num_matvecs: int
    seconds: float
    seed: int | None = None
    dtype: str
    device: str
    n: int
    weighting: str = ""
    units: float | None = None
    strategy: str = ""
    error_covers: str = ""
    converged: bool | None = None
    interrupted: str = ""
    parameter_names: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    versions: dict[str, str] = Factory(dict)
