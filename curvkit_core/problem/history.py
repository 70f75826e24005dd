"""What was learned about a problem's data while it was read: shared by all blocks and operators of the problem."""

from __future__ import annotations

from attrs import define, field

__all__ = ["History"]


@define
class History:
    """Facts that come from passes over the data; no configuration.

    Parameters
    ----------
    units : float or None
        What the risk's sum is divided by, once a pass has told.
    batches_seen : int
        Batches in the last pass of this process.
    passes_compared : int
        Passes that went through the checks of the data; two are compared.
    contents : object or None
        What the first of them read.
    probed : dict
        By kind of operator, the sets of parameters for which its products were probed.
    findings : list of str
        What the checks could not tell, or only warned of.
    kept_graphs : object or None
        The engine's kept graphs, so that operators and blocks share them.
    bound_loss : object or None
        The loss after it has seen the model, where it binds to one.
    bound_notes : tuple of str
        What it then said; they are among the findings, of other data's twins too.
    """

    units: float | None = None
    batches_seen: int = 0
    passes_compared: int = 0
    contents: object | None = None
    probed: dict[object, list[frozenset[object]]] = field(factory=dict)
    findings: list[str] = field(factory=list)
    kept_graphs: object | None = None
    bound_loss: object | None = None
    bound_notes: tuple[str, ...] = ()
