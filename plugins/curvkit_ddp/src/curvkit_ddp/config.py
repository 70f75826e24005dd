"""What a run file's ``[backend]`` table may say; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = ["ReplicatedConfig", "ShardedConfig"]


@frozen(kw_only=True)
class ReplicatedConfig:
    """Options of ``ddp/replicated``.

    Parameters
    ----------
    timeout : float or None
        Seconds that a rank waits for the others in one collective; left out: 1800.
    transport : str
        ``"auto"`` (gloo, and NCCL for tensors on a GPU), ``"gloo"`` or ``"nccl"``.
    """

    timeout: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    transport: str = field(default="auto", validator=validators.in_(("auto", "gloo", "nccl")))


@frozen(kw_only=True)
class ShardedConfig:
    """Options of ``ddp/sharded``.

    Parameters
    ----------
    timeout : float or None
        Seconds that a rank waits for the others in one collective; left out: 1800.
    transport : str
        ``"auto"`` (gloo, and NCCL for tensors on a GPU), ``"gloo"`` or ``"nccl"``.
    """

    timeout: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    transport: str = field(default="auto", validator=validators.in_(("auto", "gloo", "nccl")))
