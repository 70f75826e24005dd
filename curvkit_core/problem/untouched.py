"""The user's model and global random state as they were, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module, mode: str) -> Iterator[None]:
    """Run with the model in `mode` (eval, train or as-is); then every module's own flag and the random state are back.

    Modules keep separate flags (a frozen BatchNorm in a training model), so each one's is restored.
    """
    flags = [(module, module.training) for module in held_modules(model)]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    cpu_state = torch.get_rng_state()
    cuda_states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    try:
        if mode != "as-is":
            # by attribute: a user's overridden train() may do more than set the flag
            for module, _ in flags:
                module.training = mode == "train"
        yield
    finally:
        for module, training in flags:
            module.training = training
        torch.set_rng_state(cpu_state)
        for device, state in cuda_states:
            torch.cuda.set_rng_state(state, device)
