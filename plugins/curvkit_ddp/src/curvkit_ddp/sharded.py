r"""The fully sharded backend: parameters, vectors and bases lie in parts, and the model is whole a block at a time.

Ranks have data of their own. A product's sum over the ranks is made in its backward passes, where a block's gradients
are summed and cut (reduce-scatter); only the count of units, and replicas of the shards, are left to be summed after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from curvkit_core.backends import World
from curvkit_core.checks.finite_values import all_finite
from curvkit_core.errors import RankError
from curvkit_ddp.collective_forward import Blocks
from curvkit_ddp.collectives import small_stack
from curvkit_ddp.dealing import Dealt
from curvkit_ddp.flat_sums import packed, unpacked
from curvkit_ddp.launch import DEFAULT_TIMEOUT, find_group
from curvkit_ddp.ranks import Ranks, group_and_patience
from curvkit_ddp.sharded_space import ShardedSpace
from curvkit_ddp.shards import cut_of, local_part
from curvkit_ddp.traffic import Traffic
from curvkit_ddp.whole_weights import WholeWeights

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from curvkit_core.backends.protocol import Layout
    from curvkit_ddp.config import ShardedConfig

__all__ = ["ShardedBackend", "build_sharded"]

T = TypeVar("T")


@define(eq=False)
class _Memory:
    """What the backend has compared, and the model it is open for."""

    layouts: set[tuple[str, str, str]] = field(factory=set)
    depth: int = 0
    blocks: Blocks | None = None


@frozen(init=False)
class ShardedBackend:
    """Exact Hessian, GGN and Fisher products of a model that ``fully_shard`` has sharded (FSDP2), in 1/N of the memory.

    Every rank has its own batches. The model's parameters are not moved, and FSDP's own hooks stand aside during a
    product. ``strategy="reverse"`` and ``cache="rebuild"`` alone: torch has no forward mode through sharded tensors,
    and ranks that keep different graphs would wait for one another for ever.

    Parameters
    ----------
    mesh : DeviceMesh or None
        The model's: one axis (shards), or two (replicas, shards) as ``fully_shard`` has them. None: one axis of all
        ranks of the default process group, which is initialised here if a launcher has started this process.
    timeout : float or None
        Seconds to wait for the others in one collective; None: 1800.
    transport : {"auto", "gloo", "nccl"}
        What a group that is initialised here talks through.

    Attributes
    ----------
    traffic : Traffic
        What was sent, and how many blocks were whole at a time.

    Raises
    ------
    ValueError
        If there is neither a process group nor a launcher, or the mesh has more than two axes.

    Notes
    -----
    A parameter is cut along its first dim, as FSDP2 does by default; other dims and tensor parallelism are refused.
    A forward must do the same operations on every rank: no branches that the data decides. Under autocast the casts of
    weights are saved whole.
    """

    # over the same groups two are equal: what they remember and count is no part of what they are
    world: World
    everyone: Ranks = field(eq=group_and_patience)
    shards: Ranks = field(eq=group_and_patience)
    replicas: Ranks | None = field(eq=group_and_patience)
    traffic: Traffic = field(eq=False)
    wholes: WholeWeights = field(eq=False)
    _memory: _Memory = field(eq=False)

    def __init__(
        self, mesh: DeviceMesh | None = None, *, timeout: float | None = None, transport: str = "auto"
    ) -> None:
        patience = DEFAULT_TIMEOUT if timeout is None else timeout
        if mesh is None:
            shards = everyone = Ranks(find_group(timeout=timeout, transport=transport), patience)
            replicas = None
        else:
            shards, replicas, everyone = _of_mesh(mesh, patience)
        traffic = Traffic()
        world = World(rank=everyone.rank, size=everyone.size)
        self.__attrs_init__(world, everyone, shards, replicas, traffic, WholeWeights(shards, traffic), _Memory())

    def space(self, parameters: Layout) -> ShardedSpace:
        """Vectors in this rank's parts; the ranks' names, dtypes and devices are compared once a layout."""
        device = torch.device(parameters.device)
        text = repr([s.name for s in parameters.segments])
        layout = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        seen = (layout, str(parameters.dtype), device.type)
        if seen not in self._memory.layouts:
            facts = {
                "parameters": f"{len(parameters.segments)} (names {layout})",
                "dtype": str(parameters.dtype).removeprefix("torch."),
                "device": device.type,
                "torch": torch.__version__,
            }
            self.compare(facts)
            self._memory.layouts.add(seen)
        if not self.shards.reaches(device.type):
            msg = f"the shards are on {device}, which the process group does not reach. Initialise one that does."
            raise ValueError(msg)
        return ShardedSpace(
            parameters.segments,
            dtype=parameters.dtype,
            device=parameters.device,
            shards=self.shards,
            everyone=self.everyone,
            stores=self.replicas is None or self.replicas.rank == 0,
        )

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add the counts over all ranks, and the vectors over replicas: one collective, or two with replicas.

        Where one rank's part of the vectors is not finite, all parts are NaN: every rank refuses such a product, so
        that none waits for another.
        """
        vectors, *numbers = sums
        empty = torch.zeros(0, dtype=torch.float64, device=self.everyone.device)
        spoilt = torch.tensor(float(not all_finite(vectors)), dtype=torch.float64)
        told = [n.to(empty.device) for n in (*numbers, spoilt)]
        _, *counts, spoilt = unpacked(self.everyone.add(packed(empty, told)), empty, told)
        if self.replicas is not None and self.replicas.size > 1:
            vectors = self.replicas.add(vectors.contiguous())
        if float(spoilt):
            vectors = torch.full_like(vectors, torch.nan)
        return (vectors, *(c.to(n.device) for c, n in zip(counts, numbers, strict=True)))

    def give_up(self, sums: tuple[Tensor, ...], error: BaseException) -> None:
        """Announce the failure: ranks that wait for this one look for such news."""
        if self.world.size > 1 and not self.everyone.broken and not isinstance(error, RankError):
            for ranks in self._groups():
                ranks.announce(error)

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        """A run of neighbouring batches for this rank, of batches that every rank could read."""
        return Dealt(batches, rank=self.world.rank, size=self.world.size)

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        """FSDP's hooks aside, ours on; weights that autograd saves are packed."""
        memory = self._memory
        if memory.depth:
            yield
            return
        for ranks in self._groups():
            ranks.check()
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        memory.blocks = Blocks.of(model)
        memory.depth += 1
        try:
            with memory.blocks.hooked(self.wholes), self.wholes.packing():
                yield
        finally:
            memory.depth -= 1
            memory.blocks = None

    def piece(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int]:
        """This rank's part of a parameter as a plain tensor, and its first element's place in the flattened whole."""
        cut = cut_of(name, parameter)
        if cut.size != self.shards.size:
            msg = (
                f"parameter {name!r} is cut into {cut.size} parts, this backend's mesh has {self.shards.size} shards. "
                "Give ShardedBackend the mesh that the model was sharded with."
            )
            raise ValueError(msg)
        return local_part(parameter), cut.start(self.shards.rank)

    def forward(self, model: nn.Module) -> AbstractContextManager[None]:
        """Surround one forward inside :meth:`context`."""
        assert self._memory.blocks is not None, "outside of context()"
        return self._memory.blocks.forward(self.wholes)

    def in_step(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """As many items on each rank as the most that one has: one small collective an item.

        A rank that has run out repeats its last; where one has none at all, it is sent another's first.
        """
        last: Any = None
        for step, item in enumerate(chain(items, repeat(None))):
            last = last if item is None else item
            has = small_stack(self.everyone, torch.tensor([item is not None, last is not None]))
            if not bool(has[:, 0].any()):
                return
            if step == 0 and not bool(has[:, 1].all()):
                sent = self._sent(item, lender=int(has[:, 0].int().argmax()))
                last = sent if last is None else last
            yield last, item is not None

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raise on every rank, naming ranks and values, where the ranks' facts differ."""
        self.everyone.compare(facts)

    def share(self, text: str) -> str:
        """Rank 0's text."""
        return self.everyone.texts(text)[0]

    def _groups(self) -> tuple[Ranks, ...]:
        return tuple({id(r): r for r in (self.everyone, self.shards, self.replicas) if r is not None}.values())

    def _sent(self, item: Any, lender: int) -> Any:
        """The lender's item on every rank. torch pickles it: ranks of one run trust one another."""
        box = [item if self.world.rank == lender else None]
        source = dist.get_global_rank(self.everyone.group, lender)
        dist.broadcast_object_list(box, src=source, group=self.everyone.group, device=self.everyone.device)
        return box[0]


def _of_mesh(mesh: DeviceMesh, timeout: float) -> tuple[Ranks, Ranks | None, Ranks]:
    """Shards, replicas and everyone of a mesh."""
    if mesh.ndim == 1:
        shards = Ranks(mesh.get_group(), timeout)
        return shards, None, shards
    if mesh.ndim != 2:
        msg = f"the device mesh has {mesh.ndim} axes: expected one (shards), or two (replicas, shards)."
        raise ValueError(msg)
    if mesh.size() != dist.get_world_size():
        msg = (
            f"the device mesh has {mesh.size()} ranks of {dist.get_world_size()}: expected all of them in a mesh "
            "of two axes."
        )
        raise ValueError(msg)
    everyone = Ranks(find_group(), timeout)
    return Ranks(mesh.get_group(1), timeout), Ranks(mesh.get_group(0), timeout), everyone


def build_sharded(config: ShardedConfig) -> ShardedBackend:
    """The backend that a run file asks for."""
    return ShardedBackend(timeout=config.timeout, transport=config.transport)
