r"""Core's chunked cross-entropy Hessian product under ``torch.compile``: a chunk's passes in one loop over its memory.

Chunks have a power of two of rows, so that few shapes are compiled; the rows that are left over go to core's reference.
Nothing of size (N, V) is made beside the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from curvkit_core.kernels import ce_hvp as reference
from curvkit_triton.fallback import Fallback

__all__ = ["CompiledCeHvp", "compiled_ce_hvp"]

_CPU_CHUNK = 1 << 18  # elements at once: a few MB, which stay in the cache
_CHUNK = 1 << 25  # on a GPU launches count more


def _rows_product(logits: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    """The product of rows (R, V) with u (k, R, V), in one expression that fuses."""
    wide = torch.promote_types(torch.promote_types(logits.dtype, u.dtype), torch.float32)
    ignored = (weight == 0)[:, None]
    z = torch.where(ignored, 0.0, logits.to(wide))
    d = torch.where(ignored, 0.0, u.to(wide))
    e = torch.exp(z - z.amax(-1, keepdim=True))
    total = e.sum(-1, keepdim=True)
    mean = (e * d).sum(-1, keepdim=True) / total
    return ((d - mean) * (e * (weight[:, None].to(wide) / total))).to(u.dtype)


@define(eq=False)
class CompiledCeHvp:
    """:class:`curvkit_core.kernels.CeHvp`, compiled; where the compiler fails, core's reference, which is said once."""

    compiler: Callable[[Any], Any] = field(factory=lambda: lambda f: torch.compile(f, fullgraph=True, dynamic=False))
    fallback: Fallback = field(factory=lambda: Fallback("triton/ce-hvp-compile", "core/ce-hvp"))
    _compiled: Callable[..., Tensor] | None = None

    def __call__(self, logits: Tensor, weight: Tensor, u: Tensor, /) -> Tensor:
        """Multiply the softmax's Hessian with u: see :func:`curvkit_core.kernels.ce_hvp`."""
        height = max(1, (_CPU_CHUNK if logits.device.type == "cpu" else _CHUNK) // max(1, logits.shape[1]))
        height = 1 << (max(1, min(height, len(logits))).bit_length() - 1)
        whole = len(logits) - len(logits) % height
        if self.fallback.reason or not whole or not u.numel():
            return reference(logits, weight, u)
        logits, weight, u = logits.detach(), weight.detach(), u.detach()
        if self._compiled is None:
            self._compiled = self.compiler(_rows_product)
        product = torch.empty_like(u)
        with torch.no_grad(), self.fallback as attempt:
            for low in range(0, whole, height):
                rows = slice(low, low + height)
                product[..., rows, :] = self._compiled(logits[rows], weight[rows], u[..., rows, :])
            if whole < len(logits):
                rest = slice(whole, None)
                product[..., rest, :] = reference(logits[rest], weight[rest], u[..., rest, :])
        return reference(logits, weight, u) if attempt.failed else product


#: The kernel.
compiled_ce_hvp = CompiledCeHvp()
