"""Which part of a batch goes into the model and which is the target, for losses that take both from one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen
from torch import Tensor, nn

__all__ = ["BatchLayout", "by_example"]

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@frozen(kw_only=True)
class BatchLayout:
    """How a batch is read: ``(*inputs, target)``, or a mapping (or attrs class or dataclass) with a target's key.

    Parameters
    ----------
    target : str or None
        The target's key; None: the first of labels, label, targets, target, y that is there.
    inputs : tuple of str or None
        Keys handed to the model by position; None: all keys but the target's, by name.
    """

    target: str | None = None
    inputs: tuple[str, ...] | None = None

    def target_of(self, batch: Any) -> Tensor:
        """The target tensor of `batch`."""
        fields = _fields(batch)
        target = batch[-1] if fields is None else fields[self._target_key(fields)]
        if not isinstance(target, Tensor):
            msg = f"the batch's target is a {type(target).__name__}: expected a torch.Tensor."
            raise TypeError(msg)
        return target

    def run(self, model: nn.Module, batch: Any) -> Tensor:
        """Call the model on the batch's inputs and give its output tensor (or its output's ``.logits``)."""
        out = self.call(model, batch)
        out = getattr(out, "logits", out)
        if not isinstance(out, Tensor):
            msg = (
                f"{type(model).__name__} returned a {type(out).__name__}: expected a tensor, or an object with "
                ".logits. "
                "Wrap the model so that it returns the tensor, or write a loss adapter with its own outputs(model, "
                "batch)."
            )
            raise TypeError(msg)
        if not out.ndim:
            msg = f"{type(model).__name__} returned a number: expected outputs with the examples on the leading axis."
            raise ValueError(msg)
        return out

    def call(self, fn: Callable[..., Any], batch: Any) -> Any:
        """What `fn` gives for the batch's inputs."""
        fields = _fields(batch)
        if fields is None:
            return fn(*batch[:-1])
        if self.inputs is not None:
            return fn(*(_entry(fields, key) for key in self.inputs))
        target = self._target_key(fields)
        return fn(**{key: value for key, value in fields.items() if key != target})

    def _target_key(self, fields: Mapping[str, Any]) -> str:
        for key in (self.target,) if self.target is not None else _TARGET_KEYS:
            if key in fields:
                return key
        expected = repr(self.target) if self.target is not None else "one of " + ", ".join(_TARGET_KEYS)
        msg = (
            f"the batch has the keys {', '.join(map(str, fields))}: expected "
            f"{expected}. Pass target='its key' to the loss."
        )
        raise ValueError(msg)


def by_example(values: Tensor) -> Tensor:
    """(N, ...) as (N, D), also where N is 0."""
    return values.flatten(1) if values.ndim > 1 else values[:, None]


def _fields(batch: Any) -> Mapping[str, Any] | None:
    """A batch with named entries as a mapping; None for a tuple or list."""
    if isinstance(batch, Mapping):
        return batch
    if attrs.has(type(batch)) or hasattr(type(batch), "__dataclass_fields__"):
        names = getattr(type(batch), "__dataclass_fields__", None) or [a.name for a in attrs.fields(type(batch))]
        return {name: getattr(batch, name) for name in names}
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return None
    msg = (
        f"a batch of type {type(batch).__name__} cannot be split into inputs and target: "
        "expected (*inputs, target), or a mapping with a target key."
    )
    raise TypeError(msg)


def _entry(fields: Mapping[str, Any], key: str) -> Any:
    if key not in fields:
        msg = f"the batch has the keys {', '.join(map(str, fields))}: no input {key!r}. Name its keys in inputs=."
        raise ValueError(msg)
    return fields[key]
