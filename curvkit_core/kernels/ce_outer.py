r"""Softmax cross-entropy's gradients as outer products: :math:`r\,\langle r, u\rangle`, row by row.

The loss of a row with target mass q, :math:`s = \sum_c q_c`, is :math:`-\sum_c q_c\log p_c`, and :math:`r = s\,p - q`
is its gradient in the logits. q is given as one class that has most of it and what all rows have besides. Works through
chunks of rows, and holds nothing of size (N, V) beside its arguments but the result. Not differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.kernels.row_softmax import softmax_chunks

__all__ = ["ce_outer"]


def ce_outer(logits: Tensor, weight: Tensor, hit: Tensor, hit_mass: Tensor, spread: Tensor | None, u: Tensor) -> Tensor:
    r"""Multiply :math:`r r^\top` of each row with u.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
    weight : Tensor, shape (N,)
        s; 0 for an ignored row, whose logits and u may hold anything and whose product is 0.
    hit : Tensor, shape (N,), int64
        The target's class, any valid one where the row is ignored.
    hit_mass : Tensor, shape (N,)
        Its mass without `spread`.
    spread : Tensor, shape (V,), or None
        Mass that every row has besides: smoothing.
    u : Tensor, shape (N, V) or (k, N, V)
        Directions.

    Returns
    -------
    Tensor, shape and dtype of `u`
        Accumulated in float32 at least.
    """
    product = torch.empty_like(u)
    with torch.no_grad():
        for rows, p, part in softmax_chunks(logits, weight, u):
            r = p.mul_(weight[rows, None].to(p.dtype))
            r.scatter_add_(1, hit[rows, None], -hit_mass[rows, None].to(p.dtype))
            if spread is not None:
                r -= torch.where(weight[rows, None] == 0, 0.0, spread.to(p.dtype))
            inner = part.mul_(r).sum(-1, keepdim=True)
            product[..., rows, :] = inner * r
    return product
