r"""Functions of torch that have no second derivative, or a wrong one, written in those that have.

- ``embedding_bag``: no second derivative, no forward mode.
- ``_weight_norm``, :math:`w = g\,v/\|v\|`, of torch.nn.utils' weight norms: its second derivative in v is wrong on the
  CPU (128 % on a 3 x 4 weight in float64, torch 2.13), and there is no forward mode.
- ``embedding`` with the options of training, in modules with a forward of their own, which may read ``padding_idx`` for
  more than the gradient, as fairseq's positions do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from curvkit_core.linearize.embedding_tables import NEUTRAL, has_options
from curvkit_core.problem.held_modules import held_modules

__all__ = ["twice_differentiable"]


def twice_differentiable(model: nn.Module) -> AbstractContextManager[object]:
    """Surround a forward and its backward passes, which may recompute: nothing, for a model that has no such part."""
    # every call in the forward goes through Python then: some 2 us each, which a model without such parts is spared
    return _Substitutes() if any(map(_calls_one, held_modules(model))) else nullcontext()


class _Substitutes(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))


def _calls_one(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return type(module).forward is not nn.Embedding.forward and has_options(module)
    if isinstance(module, nn.EmbeddingBag | parametrizations._WeightNorm):
        return True
    return any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values())


def _embedding(*args: Any, **kwargs: Any) -> Tensor:
    given = _EMBEDDING.bind(*args, **kwargs).arguments
    return functional.embedding(**(given | NEUTRAL))


def _embedding_bag(*args: Any, **kwargs: Any) -> Tensor:
    """Bags as rows of equal length, those that are shorter filled up with entries that do not count."""
    bound = _EMBEDDING_BAG.bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    indices, weight, offsets = a["input"], a["weight"], a["offsets"]
    factors = a["per_sample_weights"]
    counts = torch.ones_like(indices, dtype=torch.bool)
    if offsets is not None:
        ends = offsets[1:] if a["include_last_offset"] else torch.cat([offsets[1:], offsets.new_tensor([len(indices)])])
        starts = offsets[: len(ends)]
        sizes = ends - starts
        steps = torch.arange(max(1, int(sizes.max())) if len(sizes) else 1, device=indices.device)
        places = (starts[:, None] + steps).clamp_max(max(0, len(indices) - 1))
        counts = steps < sizes[:, None]
        if not len(indices):  # every bag is empty
            indices, factors = indices.new_zeros(1), None if factors is None else factors.new_zeros(1)
        indices, factors = indices[places], None if factors is None else factors[places]
    if a["padding_idx"] is not None:
        counts = counts & (indices != a["padding_idx"] % len(weight))
    rows = functional.embedding(indices, weight)
    if factors is not None:
        rows = rows * factors[..., None]
    if a["mode"] == "max":
        found = rows.masked_fill(~counts[..., None], -torch.inf).amax(1)
        return torch.where(counts.any(1)[:, None], found, 0.0)
    total = torch.where(counts[..., None], rows, 0.0).sum(1)
    pooled: Tensor = total if a["mode"] == "sum" else total / counts.sum(1).clamp_min(1)[:, None]
    return pooled


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = None if dim == -1 else [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=others is not None)
    return v * (g / norm)


_EMBEDDING = inspect.signature(functional.embedding)
_EMBEDDING_BAG = inspect.signature(functional.embedding_bag)
_SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    torch._weight_norm: _weight_norm,
}
