"""torch's own loss modules as loss adapters, so that a user may pass the criterion that trained the model."""

from __future__ import annotations

from typing import Any

from torch import nn

from curvkit_core.losses.bce import BCEWithLogitsLoss
from curvkit_core.losses.cross_entropy import CrossEntropyLoss
from curvkit_core.losses.mse import MSELoss
from curvkit_core.losses.protocol import LossAdapter

__all__ = ["as_loss_adapter"]


def as_loss_adapter(loss: Any) -> LossAdapter:
    """Give `loss` itself where it is an adapter, else the adapter of a torch criterion with ``reduction="mean"``.

    Parameters
    ----------
    loss : LossAdapter, torch.nn.CrossEntropyLoss, torch.nn.MSELoss or torch.nn.BCEWithLogitsLoss
        Options (class weights, label smoothing, ...) are carried over.

    Raises
    ------
    TypeError
        For anything else, with the mend.
    ValueError
        For a criterion that does not average.
    """
    if isinstance(loss, LossAdapter) and not isinstance(loss, type):
        return loss
    if isinstance(loss, nn.CrossEntropyLoss | nn.MSELoss | nn.BCEWithLogitsLoss):
        if loss.reduction != "mean":
            msg = (
                f"{type(loss).__name__}(reduction={loss.reduction!r}): expected reduction='mean'. "
                "curvkit sums over units and divides once; scale the operator for another average."
            )
            raise ValueError(msg)
        if isinstance(loss, nn.CrossEntropyLoss):
            return CrossEntropyLoss(
                ignore_index=loss.ignore_index, label_smoothing=loss.label_smoothing, weight=loss.weight
            )
        if isinstance(loss, nn.MSELoss):
            return MSELoss()
        if loss.weight is None:
            return BCEWithLogitsLoss(pos_weight=loss.pos_weight)
    mend = "Write CallableLoss(fn) around a fn(model, batch) -> mean loss, or use a loss adapter."
    if isinstance(loss, type):
        mend = f"Pass an instance: {loss.__name__}()."
    msg = f"loss={loss!r} is no loss adapter: it lacks outputs, loss_sum or num_units. {mend}"
    raise TypeError(msg)
