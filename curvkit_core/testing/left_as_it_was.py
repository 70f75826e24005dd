"""Everything that a product could move in a model and in the process, as values to compare before and after."""

from __future__ import annotations

import random
from typing import Any, cast

import torch
from torch import Tensor, nn

from curvkit_core.losses.batch_tree import tensors

__all__ = ["differences", "snapshot"]


def snapshot(model: nn.Module | None, batches: list[Any]) -> dict[str, Any]:
    """Parameters and buffers (objects, bytes, flags), gradients, modes, hooks, data, global random state and modes.

    A gradient is what it is: None and zeros differ.
    """
    seen: dict[str, Any] = {}
    if model is not None:
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, t in named:
            seen[f"object of {name}"] = (id(t), _local(t).data_ptr(), t.requires_grad)
            seen[f"value of {name}"] = _bytes(t)
        for name, p in model.named_parameters():
            seen[f"gradient of {name}"] = None if p.grad is None else (id(p.grad), _bytes(p.grad))
        for name, module in model.named_modules():
            where = name or "the model"
            seen[f"mode of {where}"] = module.training
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            seen[f"hooks of {where}"] = sum(len(h) for h in hooks)
            seen[f"attributes of {where}"] = (
                sorted(module._parameters),
                sorted(module._buffers),
                "forward" in vars(module),
            )
    for number, batch in enumerate(batches):
        seen[f"batch {number}"] = [_bytes(t) for t in tensors(batch)]
    seen["torch's random state"] = _bytes(torch.get_rng_state())
    seen["Python's random state"] = random.getstate()
    seen["grad mode"] = torch.is_grad_enabled()
    seen["default dtype"] = torch.get_default_dtype()
    seen["deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
    cuda = torch.backends.cuda
    seen["attention kernels"] = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    return seen


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was, by name."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded parameter; any other is that itself."""
    to_local = getattr(tensor.detach(), "to_local", None)
    return tensor if to_local is None else cast(Tensor, to_local())


def _bytes(tensor: Tensor) -> bytes:
    own = _local(tensor).detach().cpu().contiguous()
    return own.view(-1).view(torch.uint8).numpy().tobytes() if own.numel() else b""
