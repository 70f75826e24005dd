r"""Cross-entropy of a linear head that never holds the logits: the loss, twice differentiable, and its GGN product."""

from __future__ import annotations

from torch import Tensor

from curvkit_core.kernels.linear_ce_calculus import differentiable_losses
from curvkit_core.kernels.linear_ce_chunked import HeadInputs, chunked_linear_ce
from curvkit_core.kernels.linear_ce_options import CHUNK_BYTES, LinearCeOptions
from curvkit_core.kernels.protocols import LinearCe

__all__ = ["as_rows", "linear_ce", "linear_ce_ggn"]

_REDUCTIONS = ("sum", "none")


def linear_ce(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
    reduction: str = "sum",
    kernel: LinearCe = chunked_linear_ce,
) -> Tensor:
    r"""Sum :math:`\sum_i -\log\operatorname{softmax}(z_i)_{t_i}`, :math:`z = \kappa\tanh(\sigma(hW^\top + b)/\kappa)`.

    Parameters
    ----------
    hidden : Tensor, shape (..., D)
        h, any leading shape.
    weight : Tensor, shape (V, D)
        W.
    bias : Tensor, shape (V,), or None
        b. An entry of -inf takes a word out of the vocabulary.
    targets : Tensor, shape (...), int64
        Classes.
    ignore_index : int
        Targets that do not count; their hidden states may hold anything.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes. As in torch the loss is inf where a class of
        positive mass has probability 0; its derivatives are finite.
    class_weights : Tensor, shape (V,), or None
        Constants, not negative.
    softcap : float, positive, or None
        kappa; None: no cap.
    logit_scale : float
        sigma.
    chunk_bytes : int
        Bound on the (rows, V) tensors of a chunk of rows, together: 128 MiB. Beside them are tensors of the weight's
        and of the hidden states' size.
    reduction : {"sum", "none"}
        ``"none"``: the losses, shaped as `targets`, 0 for an ignored one.
    kernel : LinearCe
        Whose sweeps.

    Returns
    -------
    Tensor
        float32 at least. Differentiable twice in hidden, weight and bias: double backward, forward mode, torch.func.

    Raises
    ------
    ValueError
        For shapes that do not fit, a target that is no class, an option out of range.
    NotImplementedError
        By a third derivative.

    Notes
    -----
    A chunk takes 1 matmul of the head's size for the loss, 3 for its gradient, 7 for the gradient's derivative. An
    input that needs no gradient takes part in none of the matmuls that its derivatives would need.
    """
    if reduction not in _REDUCTIONS:
        msg = f"reduction={reduction!r}: expected one of {', '.join(map(repr, _REDUCTIONS))}."
        raise ValueError(msg)
    rows, labels = as_rows(hidden, weight, bias, targets)
    options = LinearCeOptions(
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        softcap=softcap,
        logit_scale=logit_scale,
        chunk_bytes=chunk_bytes,
    )
    losses = differentiable_losses(kernel, (rows, weight, bias), labels, options)
    return losses.sum() if reduction == "sum" else losses.reshape(targets.shape)


def linear_ce_ggn(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    dh: Tensor | None,
    dW: Tensor | None,
    db: Tensor | None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
    wanted: tuple[bool, bool, bool] = (True, True, True),
    kernel: LinearCe = chunked_linear_ce,
) -> HeadInputs:
    r"""Multiply the Gauss-Newton matrix :math:`K^\top H_z K` of :func:`linear_ce`'s sum with a direction, or with k.

    K is the Jacobian of the logits in (hidden, weight, bias), H the loss's Hessian in the logits.

    Parameters
    ----------
    hidden, weight, bias, targets
        As for :func:`linear_ce`.
    dh, dW, db : Tensor or None
        The direction: shaped as hidden, weight and bias, or all with a leading axis k more. None is zero.
    ignore_index, label_smoothing, class_weights, softcap, logit_scale, chunk_bytes, kernel
        As for :func:`linear_ce`.
    wanted : tuple of three bool
        Which parts of the product are computed.

    Returns
    -------
    tuple of Tensor or None
        The product's parts in hidden, weight and bias, shaped as the direction's; None where not wanted, or no bias.
        Not differentiable.

    Raises
    ------
    ValueError
        For shapes that do not fit, or no direction at all.

    Notes
    -----
    A chunk of rows takes 1 + 4k matmuls of the head's size, less those of what is None or not wanted.
    """
    rows, labels = as_rows(hidden, weight, bias, targets)
    given = [(d, like) for d, like in ((dh, hidden), (dW, weight), (db, bias)) if d is not None and like is not None]
    if not given or (db is not None and bias is None):
        msg = "expected a direction: dh, dW or db that is no None, and db only where there is a bias."
        raise ValueError(msg)
    lead = given[0][0].ndim - given[0][1].ndim
    k = given[0][0].shape[:lead]
    for d, like in given:
        if lead not in (0, 1) or d.shape != (*k, *like.shape):
            msg = f"a direction has shape {tuple(d.shape)}: expected {tuple(like.shape)}, or that with k before it."
            raise ValueError(msg)
    along = tuple(None if d is None else d if lead else d[None] for d in (dh, dW, db))
    in_rows = None if along[0] is None else along[0].reshape(len(along[0]), *rows.shape)
    options = LinearCeOptions(
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        softcap=softcap,
        logit_scale=logit_scale,
        chunk_bytes=chunk_bytes,
    )
    wanted = (wanted[0], wanted[1], wanted[2] and bias is not None)
    y = (rows, weight, bias)
    parts = iter(kernel.product(y, labels, options, None, (in_rows, along[1], along[2]), wanted, gauss_newton=True))
    found = [next(parts) if want else None for want in wanted]
    out_hidden, out_weight, out_bias = (None if t is None else t if lead else t[0] for t in found)
    return None if out_hidden is None else out_hidden.reshape(*k, *hidden.shape), out_weight, out_bias


def as_rows(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes, and give hidden as (N, D) and targets as (N,)."""
    problem = ""
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:]:
        problem = "expected hidden (..., D) and weight (V, D)."
    elif bias is not None and bias.shape != weight.shape[:1]:
        problem = f"expected a bias ({weight.shape[0]},), not {tuple(bias.shape)}."
    elif targets.is_floating_point() or targets.shape != hidden.shape[:-1]:
        problem = f"expected targets {tuple(hidden.shape[:-1])} of integers, one a row of hidden."
    if problem:
        msg = (
            f"hidden has shape {tuple(hidden.shape)}, weight {tuple(weight.shape)}, targets "
            f"{tuple(targets.shape)} ({str(targets.dtype).removeprefix('torch.')}): {problem}"
        )
        raise ValueError(msg)
    return hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1).long()
