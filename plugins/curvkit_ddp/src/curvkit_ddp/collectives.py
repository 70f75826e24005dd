"""All-gather and reduce-scatter of the parts of several parameters in one flat message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from curvkit_ddp.ranks import Ranks
from curvkit_ddp.shards import Cut

__all__ = ["gathered", "scattered", "small_stack", "small_sum"]

# torch 2.13 renamed them, and warns of the old names
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gathered(ranks: Ranks, cuts: Sequence[Cut], parts: Sequence[Tensor]) -> list[Tensor]:
    """The wholes of which `parts` are this rank's, of one dtype. One collective."""
    width = sum(cut.padded for cut in cuts)
    flat = parts[0].new_zeros(width)
    low = 0
    for cut, part in zip(cuts, parts, strict=True):
        flat[low : low + part.numel()].copy_(part.reshape(-1))
        low += cut.padded
    everything = flat.new_empty((ranks.size, width))
    ranks.finish(
        _all_gather(everything.view(-1), flat, group=ranks.group, async_op=True), "a gathering of sharded weights"
    )
    wholes = []
    low = 0
    for cut in cuts:
        # Padding is at the end of the last parts that are not empty, so behind the whole. Contiguous, where reshape may
        # give every n-th element of the message: torch 2.13's batch_norm backward on a CPU misreads such a weight.
        laid = everything[:, low : low + cut.padded].reshape(-1).contiguous()
        wholes.append(laid[: cut.shape.numel()].view(cut.shape))
        low += cut.padded
    return wholes


def scattered(ranks: Ranks, cuts: Sequence[Cut], wholes: Sequence[Tensor]) -> list[Tensor]:
    """This rank's parts of the wholes' sums over the ranks. One collective."""
    width = sum(cut.padded for cut in cuts)
    flat = wholes[0].new_zeros((ranks.size, width))
    low = 0
    for cut, whole in zip(cuts, wholes, strict=True):
        own = whole.reshape(-1)
        for rank in range(ranks.size):
            begin, end = cut.start(rank), cut.start(rank + 1)
            flat[rank, low : low + end - begin].copy_(own[begin:end])
        low += cut.padded
    mine = _summed_rows(ranks, flat)
    parts = []
    low = 0
    for cut in cuts:
        numel = cut.start(ranks.rank + 1) - cut.start(ranks.rank)
        rows = numel // cut.row if cut.row else 0
        parts.append(mine[low : low + numel].view(rows, *cut.shape[1:]))
        low += cut.padded
    return parts


def _summed_rows(ranks: Ranks, flat: Tensor) -> Tensor:
    """The sum over the ranks of this rank's row of `flat` (size, width): a reduce-scatter."""
    what = "a sum of sharded gradients"
    if ranks.transport(flat.device.type) == "gloo":
        # gloo's own is a sum of everything, of which each keeps its row: twice the traffic
        received = torch.empty_like(flat)
        ranks.finish(dist.all_to_all_single(received, flat, group=ranks.group, async_op=True), what)
        return received.sum(0)
    mine = flat.new_empty(flat.shape[1])
    ranks.finish(_reduce_scatter(mine, flat.view(-1), group=ranks.group, async_op=True), what)
    return mine


def small_sum(ranks: Ranks, small: Tensor) -> Tensor:
    """A small CPU tensor's sum over the ranks, on the CPU. One small collective."""
    there = small.to(ranks.device, copy=True).contiguous()
    return ranks.add(there).to(small.device)


def small_stack(ranks: Ranks, small: Tensor) -> Tensor:
    """Every rank's small CPU tensor, of one shape: (size, *shape), on the CPU. One small collective."""
    there = small.to(ranks.device).contiguous()
    found = [torch.empty_like(there) for _ in range(ranks.size)]
    ranks.finish(dist.all_gather(found, there, group=ranks.group, async_op=True), "an exchange of small matrices")
    return torch.stack(found).to(small.device)
