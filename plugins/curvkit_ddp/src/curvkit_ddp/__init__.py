"""Replicated and sharded models on many ranks, as a curvkit plugin. `_plugin` is what core loads.

Names are looked up when they are first used: importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvkit_ddp.replicated import ReplicatedBackend
    from curvkit_ddp.sharded import ShardedBackend
    from curvkit_ddp.sharding import shard

__all__ = ["ReplicatedBackend", "ShardedBackend", "shard"]

_HOMES = {
    "ReplicatedBackend": "replicated",
    "ShardedBackend": "sharded",
    "shard": "sharding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
