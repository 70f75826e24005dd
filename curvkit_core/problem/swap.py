"""Other values in the model, and back: the one place that touches a model's parameters and buffers.

``torch.func.functional_call`` restores the parameters when the forward ends; activation checkpointing recomputes during
the backward and would then read the module's own. Here the caller keeps the values in to the end of the backward, and
can put the same ones in again for a later backward of a kept graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["Swap"]


class Swap:
    """Values to stand in the place of a model's parameters, and copies in the place of its buffers.

    The parameters without a value of their own are replaced by detached views: no gradient is computed for them.

    Parameters
    ----------
    model : torch.nn.Module
    values : mapping of Parameter to Tensor
        A tied parameter is replaced wherever it occurs.
    dtype : torch.dtype or None
        Give the other parameters and the buffers this dtype where they are floating-point numbers of fewer bits.

    Raises
    ------
    ValueError
        If a parameter that has a value is in no module that can be reached: its derivatives would silently be zero.
    TypeError
        If a module is scripted or traced: its parameters lie where Python does not reach.
    """

    def __init__(
        self, model: nn.Module, values: Mapping[nn.Parameter, Tensor], *, dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        shared: dict[int, Tensor] = {}  # tied parameters and shared buffers stay tied and shared
        self._plan: list[tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]] = []
        placed: set[int] = set()
        for module in held_modules(model):
            if isinstance(module, torch.jit.ScriptModule):
                msg = (
                    f"a {module.original_name} in {type(model).__name__} is scripted or traced by torch.jit: other "
                    "values cannot stand in its parameters' places. Use the module that it was made from."
                )
                raise TypeError(msg)
            placed.update(map(id, module._parameters.values()))
            parameters, buffers = {}, {}
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if not isinstance(parameter, nn.Parameter):
                        msg = (
                            f"the place of parameter {name!r} of a {type(module).__name__} holds a plain tensor: "
                            "values are swapped in already. Leave the other linearization's context first."
                        )
                        raise RuntimeError(msg)
                    value = values.get(parameter)
                    if value is None:
                        value = shared.setdefault(id(parameter), _widened(parameter.detach(), dtype))
                    parameters[name] = value
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    if id(buffer) not in shared:
                        shared[id(buffer)] = _widened(buffer.detach().clone(), dtype)
                    buffers[name] = shared[id(buffer)]
            self._plan.append((module, parameters, buffers))
        if lost := [parameter for parameter in values if id(parameter) not in placed]:
            names = [name for name, p in model.named_parameters() if any(p is parameter for parameter in lost)]
            msg = (
                f"{type(model).__name__} lists {len(lost)} parameters that none of its modules holds, the first being "
                f"{next(iter(names), 'without a name')!r}: they cannot be given other values. Make their module a "
                "submodule, or leave them out with params=."
            )
            raise ValueError(msg)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the values in; on leaving, whatever happened, the same objects as before are back in their places."""
        saved: list[tuple[nn.Module, dict[str, nn.Parameter | None], dict[str, Tensor | None]]] = []
        try:
            for module, parameters, buffers in self._plan:
                saved.append((module, dict(module._parameters), dict(module._buffers)))
                module._parameters.update(parameters)  # type: ignore[arg-type]  # plain tensors, as functional_call does
                module._buffers.update(buffers)
                _refresh_flat_weights(module)
            yield
        finally:
            for module, own_parameters, own_buffers in saved:
                module._parameters.clear()
                module._parameters.update(own_parameters)
                module._buffers.clear()
                module._buffers.update(own_buffers)
                _refresh_flat_weights(module)


def _widened(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, dtype))


def _refresh_flat_weights(module: nn.Module) -> None:
    """Recurrent modules keep a second list of their weights, which their forward reads."""
    names = getattr(module, "_flat_weights_names", None)
    if names is not None:
        module.__dict__["_flat_weights"] = [getattr(module, name, None) for name in names]
