r"""Whole weights for as long as they are multiplied with, and no longer.

A block's weights are made whole by :class:`_Gather`, whose derivative in the parts is :class:`_Scatter`, whose own
derivative is :class:`_Gather` again: both are linear, and each the other's transpose. So J^T u, J v and Hessian
products come out in parts, summed over the ranks.

What autograd saves of a whole weight is packed: where it lies in which block, no numbers. On unpacking the block is
gathered again, the last one being remembered. A weight that is saved anew in a double backward is packed alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor
from torch.autograd import Function
from torch.multiprocessing.reductions import StorageWeakRef

from curvkit_ddp.collectives import gathered, scattered
from curvkit_ddp.ranks import Ranks
from curvkit_ddp.shards import Cut
from curvkit_ddp.traffic import Traffic

__all__ = ["Bundle", "WholeWeights"]


@frozen(eq=False)
class Bundle:
    """Weights of one block and one dtype, which are gathered together.

    Parameters
    ----------
    block : str
        The block's name.
    cuts : tuple of Cut
        How each is cut.
    parts : tuple of Tensor
        This rank's part of each, detached: the parameters' own memory.
    """

    block: str
    cuts: tuple[Cut, ...]
    parts: tuple[Tensor, ...]


@frozen(eq=False)
class _Packed:
    """A tensor that lies in a whole weight: which, and where in it."""

    bundle: Bundle
    index: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


@define(eq=False)
class WholeWeights:
    """Makes weights whole, packs what is saved of them, and counts.

    Parameters
    ----------
    ranks : Ranks
        Over which the model is sharded.
    traffic : Traffic
    """

    ranks: Ranks
    traffic: Traffic
    _known: dict[int, tuple[StorageWeakRef, Bundle, int]] = field(factory=dict)
    _last: tuple[Bundle, list[Tensor]] | None = None

    def gather(self, bundle: Bundle, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The whole weights, differentiable in `values`, which are the bundle's parts or leaves of the same memory."""
        self._last = None
        if any(v.requires_grad for v in values):
            return tuple(_Gather.apply(self, bundle, *values))
        return tuple(self.weights(bundle))

    def weights(self, bundle: Bundle) -> list[Tensor]:
        """Gather a bundle's weights; known from now on as what may be packed."""
        with torch.no_grad():
            wholes = gathered(self.ranks, bundle.cuts, bundle.parts)
        self.traffic.weight_gathers += 1
        self._count(bundle)
        for index, whole in enumerate(wholes):
            storage = whole.untyped_storage()
            self._known[storage.data_ptr()] = (StorageWeakRef(storage), bundle, index)
        self._forget()
        return wholes

    def vectors(self, bundle: Bundle, parts: Sequence[Tensor]) -> list[Tensor]:
        """Gather parts of a vector, laid out as the bundle is."""
        self.traffic.vector_gathers += 1
        self._count(bundle)
        return gathered(self.ranks, bundle.cuts, parts)

    def scatter(self, bundle: Bundle, wholes: Sequence[Tensor]) -> list[Tensor]:
        """Sum gradients over the ranks, and keep this rank's parts."""
        self.traffic.reductions += 1
        self._count(bundle)
        return scattered(self.ranks, bundle.cuts, wholes)

    def remember(self, bundle: Bundle, wholes: Sequence[Tensor]) -> None:
        """Keep a block that has just been used, until another one is made whole."""
        self._last = (bundle, [w.detach() for w in wholes])

    def forget(self) -> None:
        """Let the last block go."""
        self._last = None
        self._known.clear()

    @contextmanager
    def packing(self) -> Iterator[None]:
        """Pack what autograd saves of whole weights, here and in every backward inside."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self.forget()

    def _pack(self, tensor: Tensor) -> Tensor | _Packed:
        if not self._known or tensor.layout is not torch.strided:
            return tensor
        found = self._known.get(tensor.untyped_storage().data_ptr())
        if found is None or found[0].expired() or tensor.dtype != found[1].parts[found[2]].dtype:
            return tensor
        _, bundle, index = found
        return _Packed(bundle, index, tensor.size(), tensor.stride(), tensor.storage_offset())

    def _unpack(self, saved: Tensor | _Packed) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if self._last is None or self._last[0] is not saved.bundle:
            self._last = None  # before the next is gathered, so that at most one is here for memory's sake
            self._last = (saved.bundle, self.weights(saved.bundle))
        whole = self._last[1][saved.index]
        return whole.as_strided(saved.size, saved.stride, saved.offset)

    def _count(self, bundle: Bundle) -> None:
        self.traffic.elements += sum(cut.padded * cut.size for cut in bundle.cuts)

    def _forget(self) -> None:
        """Drop the records of what has gone, and see how many blocks there are."""
        gone = [place for place, (storage, _, _) in self._known.items() if storage.expired()]
        for place in gone:
            del self._known[place]
        whole = len({bundle.block for _, bundle, _ in self._known.values()})
        self.traffic.most_whole = max(self.traffic.most_whole, whole)


class _Gather(Function):
    """Parts to whole weights; its transpose sums whole gradients over the ranks and gives each its part."""

    @staticmethod
    def forward(ctx: Any, wholes: WholeWeights, bundle: Bundle, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.wholes, ctx.bundle = wholes, bundle
        return tuple(wholes.weights(bundle))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        return (None, None, *_Scatter.apply(ctx.wholes, ctx.bundle, *slopes))


class _Scatter(Function):
    """Whole gradients to their sums' parts; its transpose gathers a vector's parts."""

    @staticmethod
    def forward(ctx: Any, wholes: WholeWeights, bundle: Bundle, *slopes: Tensor) -> tuple[Tensor, ...]:
        ctx.wholes, ctx.bundle = wholes, bundle
        return tuple(wholes.scatter(bundle, slopes))

    @staticmethod
    def backward(ctx: Any, *parts: Tensor) -> tuple[Any, ...]:
        return (None, None, *_GatherVector.apply(ctx.wholes, ctx.bundle, *parts))


class _GatherVector(Function):
    """Parts of a vector to the whole of it: what _Gather is for weights, but nothing of it is packed."""

    @staticmethod
    def forward(ctx: Any, wholes: WholeWeights, bundle: Bundle, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.wholes, ctx.bundle = wholes, bundle
        return tuple(wholes.vectors(bundle, parts))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        return (None, None, *_Scatter.apply(ctx.wholes, ctx.bundle, *slopes))
