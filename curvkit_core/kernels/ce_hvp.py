r"""Softmax cross-entropy's output-Hessian product: :math:`s\,(p \odot u - p\,\langle p, u\rangle)`, row by row.

Eager reference: oracle and fallback of every other implementation. Holds two (N, V) tensors beside its arguments: the
probabilities and the result. Not differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    keep = (weight != 0)[:, None]
    wide = torch.promote_types(torch.promote_types(logits.dtype, u.dtype), torch.float32)
    with torch.no_grad():  # in place throughout: nothing of size (N, V) is made but p and the result
        p = torch.where(keep, logits, 0.0).to(wide)
        p.sub_(p.amax(-1, keepdim=True)).exp_()
        p.div_(p.sum(-1, keepdim=True))
        product = torch.where(keep, u, 0.0).to(wide)
        # a dot product a row, as a matrix product: no temporary
        mean = torch.matmul(product[..., None, :], p[..., :, None])[..., 0]
        product.sub_(mean).mul_(p).mul_(weight.to(wide)[:, None])
    return product.to(u.dtype)
