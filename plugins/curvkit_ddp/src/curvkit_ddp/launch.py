"""Which process group a backend works on: the one it is given, the initialised one, or one for the launcher's ranks."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["DEFAULT_TIMEOUT", "TRANSPORTS", "find_group", "transport_of"]

#: Seconds that a rank waits for the others, as torch.distributed has it.
DEFAULT_TIMEOUT = 1800.0
TRANSPORTS = ("auto", "gloo", "nccl")
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def find_group(
    process_group: dist.ProcessGroup | Any | None = None, *, timeout: float | None = None, transport: str = "auto"
) -> dist.ProcessGroup:
    """Give the process group to work on.

    Parameters
    ----------
    process_group : ProcessGroup, DeviceMesh or None
        None: the default one, which is initialised here if a launcher such as torchrun has started this process.
    timeout : float or None
        Seconds, for a group that is initialised here.
    transport : {"auto", "gloo", "nccl"}
        For a group that is initialised here; ``"auto"``: gloo, and NCCL for tensors on a GPU where there is one.

    Raises
    ------
    ValueError
        If the mesh has several axes, there is no group and no launcher, or NCCL is asked for without a GPU.
    """
    if process_group is not None:
        return _of_mesh(process_group) if hasattr(process_group, "mesh_dim_names") else process_group
    if not dist.is_available():
        msg = "this torch was built without torch.distributed: there are no ranks. Use the backend core/single."
        raise ValueError(msg)
    if not dist.is_initialized():
        _initialise(timeout, transport)
    group = dist.group.WORLD
    assert group is not None
    return group


def transport_of(group: dist.ProcessGroup) -> str:
    """What carries the group's messages, by device: ``"cpu:gloo,cuda:nccl"``."""
    return str(dist.get_backend_config(group))


def _of_mesh(mesh: Any) -> dist.ProcessGroup:
    if mesh.ndim != 1:
        names = mesh.mesh_dim_names or tuple(range(mesh.ndim))
        msg = (
            f"the device mesh has {mesh.ndim} axes, {', '.join(map(str, names))}: expected one. "
            f"Name the one that the data is spread over: mesh[{names[0]!r}]."
        )
        raise ValueError(msg)
    group: dist.ProcessGroup = mesh.get_group()
    return group


def _initialise(timeout: float | None, transport: str) -> None:
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        msg = (
            "no process group is initialised, and no launcher has started this process "
            f"({', '.join(missing)} not in the environment). Start it with torchrun --nproc-per-node N, or call "
            "torch.distributed.init_process_group first; for one process leave the backend out."
        )
        raise ValueError(msg)
    if transport not in TRANSPORTS:
        msg = f"transport={transport!r} is unknown: expected one of {', '.join(map(repr, TRANSPORTS))}."
        raise ValueError(msg)
    gpu = torch.cuda.is_available()
    if transport == "nccl" and not gpu:
        msg = "transport='nccl' needs a GPU, and torch sees none here. Use transport='gloo', or 'auto'."
        raise ValueError(msg)
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    backend = transport if transport != "auto" else "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout or DEFAULT_TIMEOUT))
