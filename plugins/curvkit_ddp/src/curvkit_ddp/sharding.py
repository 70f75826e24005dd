"""Shard a plain model with FSDP2, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from curvkit_ddp.launch import find_group

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["shard"]


def shard(model: nn.Module, mesh: DeviceMesh | None = None, *, blocks: Sequence[str] | None = None) -> nn.Module:
    """Change `model` so that each rank holds its part of every parameter: torch's ``fully_shard``, block by block.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Every rank must hold the same values.
    mesh : DeviceMesh or None
        One axis, or two (replicas, shards). None: one axis of all ranks.
    blocks : sequence of str or None
        Names of the modules that are made whole one at a time; what is in none of them is whole for a whole forward.
        A weight that is read outside of its module's own forward, as a head's that is tied to an embedding, belongs
        to none. None: the entries of every ``ModuleList`` and ``Sequential``.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    ValueError
        If a name in `blocks` is no module.
    """
    if mesh is None:
        group = find_group()
        device = next(iter(model.parameters())).device.type
        mesh = init_device_mesh(device, (group.size(),))
    modules = dict(model.named_modules())
    names = _usual_blocks(model) if blocks is None else list(blocks)
    unknown = [name for name in names if name not in modules]
    if unknown:
        msg = f"{unknown[0]!r} is no module of {type(model).__name__}. It has {', '.join(list(modules)[1:6])}, ..."
        raise ValueError(msg)
    for name in names:
        fully_shard(modules[name], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _usual_blocks(model: nn.Module) -> list[str]:
    """The entries of lists and sequences with parameters that nothing outside of them has as well; outermost first."""
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not any(name.startswith(f"{b}.") for b in found):
            prefix = f"{name}." if name else ""
            found += [f"{prefix}{n}" for n, child in module.named_children() if _own_alone(child, model)]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _own_alone(child: nn.Module, model: nn.Module) -> bool:
    """Whether the child has parameters, and none of them is tied to one outside of it."""
    inside = set(child.modules())
    own = {id(p) for p in child.parameters()}
    others = {id(p) for m in model.modules() if m not in inside for p in m.parameters(recurse=False)}
    return bool(own) and not own & others
