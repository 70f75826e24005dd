"""Other values in the model, and back: the one place that touches a model's parameters and buffers.

``torch.func.functional_call`` restores the parameters when the forward ends; activation checkpointing recomputes during
the backward and would then read the module's own. Here the caller keeps the context open to the end of the backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["swapped"]


@contextmanager
def swapped(model: nn.Module, values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Run with `values` in the place of the model's parameters, and with copies in the place of its buffers.

    The other parameters are replaced by detached views, so that no gradient is computed for them. The module's dicts
    are put back on leaving, whatever happened, so parameters and buffers are the same objects with the same contents.

    Parameters
    ----------
    model : torch.nn.Module
    values : mapping of Parameter to Tensor
        A tied parameter is replaced wherever it occurs.
    """
    saved: list[tuple[nn.Module, dict[str, nn.Parameter | None], dict[str, Tensor | None]]] = []
    copies: dict[int, Tensor] = {}  # a buffer that two modules share stays shared
    others: dict[nn.Parameter, Tensor] = {}
    try:
        for module in model.modules():
            saved.append((module, dict(module._parameters), dict(module._buffers)))
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    value = values.get(parameter)
                    if value is None:
                        value = others.setdefault(parameter, parameter.detach())
                    module._parameters[name] = value  # type: ignore[assignment]  # a plain tensor, as functional_call does
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
            _refresh_flat_weights(module)
        yield
    finally:
        for module, parameters, buffers in saved:
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
            _refresh_flat_weights(module)


def _refresh_flat_weights(module: nn.Module) -> None:
    """Recurrent modules keep a second list of their weights, which their forward reads."""
    names = getattr(module, "_flat_weights_names", None)
    if names is not None:
        module.__dict__["_flat_weights"] = [getattr(module, name, None) for name in names]
