"""Configuration of core's loss adapters in run files; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = ["BCEWithLogitsConfig", "CrossEntropyConfig", "MSEConfig"]


@frozen(kw_only=True)
class CrossEntropyConfig:
    """Softmax cross-entropy on logits.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    weight : list of float, or none
        Class weights.
    target : str, or none
        Key of the target where batches are mappings.
    """

    ignore_index: int = -100
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    weight: tuple[float, ...] | None = None
    target: str | None = None


@frozen(kw_only=True)
class MSEConfig:
    """Mean squared error.

    Parameters
    ----------
    target : str, or none
        Key of the target where batches are mappings.
    """

    target: str | None = None


@frozen(kw_only=True)
class BCEWithLogitsConfig:
    """Binary cross-entropy on logits.

    Parameters
    ----------
    pos_weight : list of float, or none
        Weight of positive labels, one a label.
    target : str, or none
        Key of the target where batches are mappings.
    """

    pos_weight: tuple[float, ...] | None = None
    target: str | None = None
