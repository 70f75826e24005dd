"""What a run is, as the observers see it, and what one algorithm found for one operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from curvkit_core.results.parted_rows import PartedRows

__all__ = ["KEYBOARD", "Run", "RunResult"]

KEYBOARD = "keyboard"


@frozen(kw_only=True, eq=False)
class RunResult:
    """What one algorithm found for one operator.

    Parameters
    ----------
    operator, algorithm : str
        Names in the registry.
    label : str
        The operator's name in this run: with its parameters' globs, and numbered where two are alike.
    operator_index, algorithm_index : int
        Places in the run file.
    params : tuple of str
        The globs that restrict the operator; empty for all of the problem's parameters.
    result : object
        The algorithm's. Of a run on shards its vectors are tensors on torch's device ``"meta"``: shape and dtype are
        those of the whole, and the elements are on disk.
    seconds : float
        Wall time.
    parts : PartedRows or None
        Where the vectors are that have no elements in `result`: ``parts.whole("eigenvectors")`` reads them,
        ``parts.own("eigenvectors", space)`` this rank's part.
    """

    operator: str
    algorithm: str
    label: str
    operator_index: int
    algorithm_index: int
    params: tuple[str, ...] = ()
    result: Any
    seconds: float
    parts: PartedRows | None = None

    @property
    def parts_name(self) -> str:
        """The folder of the vectors in parts, beside ``result.json``."""
        return f"rows-{self.operator_index}-{self.algorithm_index}"


@frozen(kw_only=True, eq=False)
class Run:
    """A run, as the observers ``curvkit_run_started`` and ``curvkit_run_finished`` see it.

    Parameters
    ----------
    plan : mapping
        What ``plan.json`` holds.
    folder : Path
        Where the run's files are; not there before the end.
    problem : mapping
        Model, size, data, weighting.
    results : tuple of RunResult
        Empty at the start.
    stopped : str
        Empty, or what ended the run early: ``"keyboard"``, or a spent budget of ``"products"`` or ``"seconds"``. The
        results are those so far, the last of them perhaps not finished.
    """

    plan: Mapping[str, Any]
    folder: Path
    problem: Mapping[str, Any]
    results: tuple[RunResult, ...] = ()
    stopped: str = ""

    def to_pandas(self) -> Any:
        """Return the run's numbers as a ``pandas.DataFrame``, a row a number with its error.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        from curvkit_core.results.tables import data_frame
        from curvkit_core.runs.quantities import quantities

        columns = ("operator", "algorithm", "quantity", "value", "error", "seconds")
        rows = [(r.label, r.algorithm, *number, r.seconds) for r in self.results for number in quantities(r.result)]
        return data_frame([dict(zip(columns, row, strict=True)) for row in rows], columns=columns)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.stopped == KEYBOARD
