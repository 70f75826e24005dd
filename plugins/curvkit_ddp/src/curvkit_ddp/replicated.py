r"""The replicated backend: every rank holds the model, its own part of the data, and the same vectors.

:math:`A v = \sum_r \sum_{b \in r} A_b v / \sum_r N_r`: a rank's sum over its batches and its count of units go into one
flat buffer, which is summed over the ranks once a product, however many batches a rank has, none included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from curvkit_core.backends import Segment, VectorSpace, World
from curvkit_core.errors import RankError
from curvkit_ddp.dealing import Dealt
from curvkit_ddp.flat_sums import packed, unpacked
from curvkit_ddp.launch import DEFAULT_TIMEOUT, find_group, transport_of
from curvkit_ddp.ranks import Ranks, group_and_patience
from curvkit_ddp.replicas import ValuesDigest, plain_forward

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    from curvkit_core.backends.protocol import Layout
    from curvkit_ddp.config import ReplicatedConfig

__all__ = ["ReplicatedBackend", "ReplicatedSpace", "build_replicated"]


class ReplicatedSpace(VectorSpace):
    """Whole vectors, the same on every rank: nothing is communicated but agreements.

    Parameters
    ----------
    segments, dtype, device
        As for :class:`curvkit_core.backends.VectorSpace`.
    ranks : Ranks
    """

    def __init__(
        self, segments: Iterable[Segment], *, dtype: torch.dtype, device: torch.device | str, ranks: Ranks
    ) -> None:
        super().__init__(segments, dtype=dtype, device=device)
        self.ranks = ranks

    def agree(self, value: int) -> int:
        """The largest of the ranks' values: one small collective."""
        return self.ranks.agree(value)

    @property
    def writes(self) -> bool:
        """Rank 0 writes what all have."""
        return self.ranks.rank == 0


@define(eq=False)
class _Memory:
    """What was compared already, and the values' digest of the pass that is open."""

    layouts: set[tuple[str, str, str]] = field(factory=set)
    digest: ValuesDigest = field(factory=ValuesDigest)
    value: int = 0


@frozen(init=False)
class ReplicatedBackend:
    """Data parallel: one collective of the vectors' size a product, for every operator and every algorithm.

    Each rank makes the same problem on its own batches; ranks may hold different numbers of batches, of other sizes, or
    none. The model may be wrapped in ``DistributedDataParallel`` or not; parameters have the same names either way, and
    their values must be the same on all ranks: with each product 36 bits of their hash are compared. With one rank
    everything is as without a backend.

    Parameters
    ----------
    process_group : ProcessGroup, DeviceMesh of one axis, or None
        None: the default group, initialised here if a launcher such as torchrun has started this process.
    timeout : float or None
        Seconds to wait for the others in one collective; None: 1800. Give more than the slowest rank's pass takes.
    transport : {"auto", "gloo", "nccl"}
        What a group that is initialised here talks through.

    Raises
    ------
    ValueError
        If there is neither a process group nor a launcher, the mesh has several axes, or NCCL has no GPU.

    Notes
    -----
    Ranks are to be alike: the same program, plugins, device type, number of threads. An algorithm decides by products
    that are the same bits on every rank, and so takes the same way on each.
    """

    # over one group two are equal: what they remember is no part of what they are
    ranks: Ranks = field(eq=group_and_patience)
    world: World
    _memory: _Memory = field(eq=False)

    def __init__(
        self,
        process_group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        timeout: float | None = None,
        transport: str = "auto",
    ) -> None:
        group = find_group(process_group, timeout=timeout, transport=transport)
        ranks = Ranks(group, DEFAULT_TIMEOUT if timeout is None else timeout)
        self.__attrs_init__(ranks, World(rank=ranks.rank, size=ranks.size), _Memory())

    def space(self, parameters: Layout) -> VectorSpace:
        """Whole vectors on the parameters' device; the ranks' names, sizes and devices are compared once a layout."""
        if self.world.size == 1:
            return VectorSpace(parameters.segments, dtype=parameters.dtype, device=parameters.device)
        device = torch.device(parameters.device)
        text = repr([(s.name, s.numel, s.start) for s in parameters.segments])
        layout = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        seen = (layout, str(parameters.dtype), device.type)
        if seen not in self._memory.layouts:
            n = sum(s.numel for s in parameters.segments)
            self.compare(
                {
                    "parameters": f"{len(parameters.segments)} of {n} elements (names and sizes {layout})",
                    "dtype": str(parameters.dtype).removeprefix("torch."),
                    "device": device.type,
                    "torch": torch.__version__,
                }
            )
            self._memory.layouts.add(seen)
        # after the comparison, in which a rank that is somewhere else than the others would be missed
        if not self.ranks.reaches(device.type):
            msg = (
                f"the vectors are on {device} and the process group carries {transport_of(self.ranks.group)} only. "
                "Move the model to a device that it reaches, or initialise the group with backend='gloo' for the CPU."
            )
            raise ValueError(msg)
        return ReplicatedSpace(parameters.segments, dtype=parameters.dtype, device=parameters.device, ranks=self.ranks)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add each tensor over the ranks: one collective for all of them.

        Raises
        ------
        RankError
            If a rank gave up instead, or holds other values of the parameters.
        """
        if self.world.size == 1:
            return sums
        return self._reduced(sums, failure="")

    def give_up(self, sums: tuple[Tensor, ...], error: BaseException) -> None:
        """Take part in the others' collective with zeros and the news that this rank has failed."""
        if self.world.size == 1 or self.ranks.broken or isinstance(error, RankError):
            return  # with a RankError every rank stops by itself
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._reduced(sums, failure=text)

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        """A run of neighbouring batches for this rank, of batches that every rank could read."""
        if self.world.size == 1:
            return batches
        return Dealt(batches, rank=self.world.rank, size=self.world.size)

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        """Keep a wrapper's own collectives out, and note the values' digest."""
        if self.world.size == 1:
            with plain_forward(model):
                yield
            return
        self.ranks.check()
        self._memory.value = self._memory.digest.of(model)
        with plain_forward(model):
            yield

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raise on every rank, naming ranks and values, where the ranks' facts differ."""
        if self.world.size > 1:
            self.ranks.compare(facts)

    def share(self, text: str) -> str:
        """Rank 0's text."""
        return text if self.world.size == 1 else self.ranks.texts(text)[0]

    def _reduced(self, sums: tuple[Tensor, ...], *, failure: str) -> tuple[Tensor, ...]:
        vectors, *numbers = sums
        digest = [float(self._memory.value >> shift & 0xFFF) for shift in (0, 12, 24)]
        control = torch.tensor([float(bool(failure)), *digest], dtype=torch.float64)
        told = [*numbers, control]
        try:
            buffer = packed(vectors, told)
        except ValueError as error:  # a count that is none: the others wait for this rank all the same
            self.give_up((torch.zeros_like(vectors), *map(torch.zeros_like, numbers)), error)
            raise
        *summed, control = unpacked(self.ranks.add(buffer), vectors, told)
        failed, *digests = control.tolist()
        if failed:
            texts = self.ranks.texts(failure)
            if failure:
                return ()
            if all(text in ("", "KeyboardInterrupt") for text in texts):
                raise KeyboardInterrupt  # Ctrl-C reached another rank a moment earlier: all stop alike
            who = "; ".join(f"rank {r}: {text}" for r, text in enumerate(texts) if text)
            msg = f"rank {self.world.rank} stopped, since the product failed on {who}"
            raise RankError(msg)
        if digests != [self.world.size * d for d in digest]:
            self.compare({"values of the model's parameters and buffers (a hash)": f"{self._memory.value:09x}"})
        return tuple(summed)


def build_replicated(config: ReplicatedConfig) -> ReplicatedBackend:
    """The backend that a run file asks for."""
    return ReplicatedBackend(timeout=config.timeout, transport=config.transport)
