r"""Softmax cross-entropy's output-Hessian product: :math:`s\,(p \odot u - p\,\langle p, u\rangle)`, row by row.

Eager reference: oracle and fallback of every other implementation. Works through chunks of rows that stay in the cache,
and holds nothing of size (N, V) beside its arguments but the result. Not differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.kernels.row_softmax import softmax_chunks

__all__ = ["ce_hvp"]


def ce_hvp(logits: Tensor, weight: Tensor, u: Tensor, /) -> Tensor:
    r"""Multiply the Hessian of :math:`\sum_i s_i(\log\sum_c e^{z_{ic}} - \langle q_i, z_i\rangle)` in z with u.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        z. Entries of -inf (a masked vocabulary) have probability 0.
    weight : Tensor, shape (N,)
        s, the total target mass of each row: class weight and label smoothing summed over the classes, 0 or False for
        an ignored row. An ignored row's logits and u may hold inf or NaN; its product is 0.
    u : Tensor, shape (N, V) or (k, N, V)
        Directions.

    Returns
    -------
    Tensor, shape of `u`, dtype of `u`
        Summed over nothing: one row of the product a row of logits. Accumulated in float32 at least.
    """
    product = torch.empty_like(u)
    with torch.no_grad():
        for rows, p, part in softmax_chunks(logits, weight, u):
            mass = weight[rows, None].to(p.dtype)
            mean = (part * p).sum(-1, keepdim=True)
            product[..., rows, :] = part.sub_(mean).mul_(p).mul_(mass)
    return product
