"""Configuration of the problem core/digits-mlp; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = ["DigitsMLPConfig"]


def _positive_sizes(instance: object, attribute: object, value: tuple[int, ...]) -> None:
    if any(size < 1 for size in value):
        msg = f"hidden={list(value)}: expected positive layer sizes."
        raise ValueError(msg)


@frozen(kw_only=True)
class DigitsMLPConfig:
    """An MLP trained on the UCI handwritten digits (scikit-learn's bundled copy) in a few seconds, on the spot.

    Parameters
    ----------
    hidden : list of int
        Sizes of the hidden layers.
    activation : {"tanh", "gelu", "relu"}
        Between the layers.
    epochs : int, at least 0
        Passes of training; 0 leaves the network at its initial values.
    learning_rate : float, above 0
        Of stochastic gradient descent with momentum 0.9.
    examples : int, or none
        Use only the first so many training images.
    batch_size : int, at least 1
        Of the batches that products go through; changes cost, not the operator.
    dtype : {"float32", "float64"}
        Of network and data.
    seed : int, at least 0
        Of initialisation and shuffling.
    weighting : {"unit", "batch-mean"}
        How the data are averaged.
    """

    hidden: tuple[int, ...] = field(default=(32, 16), validator=_positive_sizes)
    activation: str = field(default="tanh", validator=validators.in_(("tanh", "gelu", "relu")))
    epochs: int = field(default=40, validator=validators.ge(0))
    learning_rate: float = field(default=0.05, validator=validators.gt(0.0))
    examples: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    batch_size: int = field(default=256, validator=validators.ge(1))
    dtype: str = field(default="float32", validator=validators.in_(("float32", "float64")))
    seed: int = field(default=0, validator=validators.ge(0))
    weighting: str = field(default="unit", validator=validators.in_(("unit", "batch-mean")))
