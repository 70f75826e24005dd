"""The user's model and global random state as they were, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["untouched"]

_NUMBERS = (bool, int, float, complex, str, type(None))
_ABSENT = object()


@contextmanager
def untouched(model: nn.Module, mode: str) -> Iterator[None]:
    """Run with the model in `mode` (eval, train or as-is); then every module's own flag and the random state are back.

    Modules keep separate flags (a frozen BatchNorm in a training model), so each one's is restored. So are the tensors
    and numbers that are plain attributes: pruned and weight-normalised layers set their weight there at every forward,
    and would be left with a displaced one, a counter in a forward would go on. What a forward does to a list or another
    object of the user's own is not undone.
    """
    before = [(module, module.training, dict(vars(module))) for module in held_modules(model)]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    cpu_state = torch.get_rng_state()
    cuda_states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    try:
        if mode != "as-is":
            # by attribute: a user's overridden train() may do more than set the flag
            for module, _, _ in before:
                module.training = mode == "train"
        yield
    finally:
        for module, training, attributes in before:
            module.training = training
            _restore(module, attributes)
        torch.set_rng_state(cpu_state)
        for device, state in cuda_states:
            torch.cuda.set_rng_state(state, device)


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    now = vars(module)
    for name in {**before, **now}:
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if old is new or not (_is_plain(name, old) or _is_plain(name, new)):
            continue
        if old is _ABSENT:
            del now[name]
        else:
            now[name] = old


def _is_plain(name: str, value: object) -> bool:
    """A tensor, or a number or word under a public name: wrappers keep their own books under the others."""
    return isinstance(value, Tensor) or (isinstance(value, _NUMBERS) and not name.startswith("_"))
