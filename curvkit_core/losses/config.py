"""Configuration of core's loss adapters in run files; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = ["BCEWithLogitsConfig", "CrossEntropyConfig", "LinearCrossEntropyConfig", "MSEConfig"]


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
class LinearCrossEntropyConfig:
    """Softmax cross-entropy of a linear head on hidden states; the logits are never held.

    Parameters
    ----------
    body : str
        Name of the model's part that gives the hidden states: a submodule, or a method.
    head : str
        Name of the linear layer, or the tied embedding, that makes logits of them.
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    weight : list of float, or none
        Class weights.
    softcap : float, or none
        Cap of the logits, by tanh.
    logit_scale : float
        Factor of the logits.
    target : str, or none
        Key of the target where batches are mappings.
    """

    body: str
    head: str
    ignore_index: int = -100
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    weight: tuple[float, ...] | None = None
    softcap: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    logit_scale: float = 1.0
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
