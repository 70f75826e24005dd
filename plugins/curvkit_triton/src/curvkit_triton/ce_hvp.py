r"""Softmax cross-entropy's output-Hessian product :math:`s\,(p \odot u - p\,\langle p, u\rangle)`, a row a program.

Shapes: logits z (N, V), weight s (N,), directions u (N, V) or (k, N, V), each with any strides; the product as u, also
in u's own place. Sums are float32, or float64 where an argument is.

Sweep 1 keeps the running max, :math:`\sum e^z` and :math:`\sum e^z u` together, each lane of a block for itself, so
that no block waits for a reduction; sweep 2 writes :math:`p(u - \langle p, u\rangle)s`. An element of z and of u is
read once a sweep, 2 + 2 reads, and written once. Floor: 1 + 1 reads and one write, for rows that stay on the chip.
A row of weight 0 is written and not read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from curvkit_triton.layout import DTYPES, check_device, check_dtypes, has_overlap, on_device

__all__ = ["ce_hvp"]

_NAME = "triton/ce-hvp"
_INSTEAD = "core/ce-hvp"
_MOST_DIRECTIONS = 65_535  # of a grid's second axis


def launch_options(classes: int) -> tuple[int, int]:
    """Block of classes and warps: 4 to 16 elements a thread."""
    block = min(4096, max(16, triton.next_power_of_2(classes)))
    return block, min(8, max(1, block // 256))


@triton.jit
def _ce_hvp_kernel(
    logits_ptr,
    weight_ptr,
    u_ptr,
    out_ptr,
    classes,
    stride_logits_n,
    stride_logits_v,
    stride_weight,
    stride_u_k,
    stride_u_n,
    stride_u_v,
    stride_out_k,
    stride_out_n,
    stride_out_v,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
    LEAST: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(1).to(tl.int64)
    logits_ptr += row * stride_logits_n
    u_ptr += direction * stride_u_k + row * stride_u_n
    out_ptr += direction * stride_out_k + row * stride_out_n
    lanes = tl.arange(0, BLOCK)
    mass = tl.load(weight_ptr + row * stride_weight).to(SUM)
    if mass == 0:
        for low in range(0, classes, BLOCK):
            at = (low + lanes).to(tl.int64)
            tl.store(out_ptr + at * stride_out_v, tl.zeros((BLOCK,), SUM), mask=at < classes)
    else:
        # from the least finite number, not from -inf, whose difference to a logit of -inf would be NaN
        high = tl.full((BLOCK,), LEAST, SUM)
        total = tl.zeros((BLOCK,), SUM)
        inner = tl.zeros((BLOCK,), SUM)
        for low in range(0, classes, BLOCK):
            at = (low + lanes).to(tl.int64)
            z = tl.load(logits_ptr + at * stride_logits_v, mask=at < classes, other=float("-inf")).to(SUM)
            u = tl.load(u_ptr + at * stride_u_v, mask=at < classes, other=0.0).to(SUM)
            u = tl.where(z == float("-inf"), 0.0, u)
            # one exponential serves both: whichever of z and the max so far is smaller is scaled
            fall = tl.exp(-tl.abs(z - high))
            old = tl.where(z > high, fall, 1.0)
            new = tl.where(z > high, 1.0, fall)
            total = total * old + new
            inner = inner * old + new * u
            high = tl.where(z > high, z, high)
        top = tl.max(high, 0)
        scale = tl.exp(high - top)
        rate = 1.0 / tl.sum(total * scale, 0)
        mean = tl.sum(inner * scale, 0) * rate
        rate = rate * mass
        for low in range(0, classes, BLOCK):
            at = (low + lanes).to(tl.int64)
            z = tl.load(logits_ptr + at * stride_logits_v, mask=at < classes, other=float("-inf")).to(SUM)
            u = tl.load(u_ptr + at * stride_u_v, mask=at < classes, other=0.0).to(SUM)
            u = tl.where(z == float("-inf"), 0.0, u)
            tl.store(out_ptr + at * stride_out_v, tl.exp(z - top) * rate * (u - mean), mask=at < classes)


def ce_hvp(logits: Tensor, weight: Tensor, u: Tensor, /, *, out: Tensor | None = None) -> Tensor:
    r"""Multiply the Hessian of :math:`\sum_i s_i(\log\sum_c e^{z_{ic}} - \langle q_i, z_i\rangle)` in z with u.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        z, with any strides. Entries of -inf (a masked vocabulary) have probability 0, whatever u holds there.
    weight : Tensor, shape (N,)
        s; 0 or False for an ignored row, whose logits and u are not read and whose product is 0.
    u : Tensor, shape (N, V) or (k, N, V)
        Directions, with any strides.
    out : Tensor, shape and dtype of `u`, or None
        Where the product is written: may be `u` itself, and shares no memory with `logits`. None: a new tensor.

    Returns
    -------
    Tensor, shape and dtype of `u`
        `out` where it was given. Sums are float32 at least. Not differentiable.

    Raises
    ------
    ValueError
        For shapes that do not fit, tensors that are on no GPU, an `out` that writes an element twice.
    TypeError
        For a dtype other than float16, bfloat16, float32, float64.

    Notes
    -----
    The host does not wait for the device. Two calls give the same bits: there are no atomics.
    """
    check_device(_NAME, _INSTEAD, logits=logits, weight=weight, u=u, out=out)
    check_dtypes(_NAME, _INSTEAD, DTYPES, logits=logits, u=u)
    if logits.ndim != 2 or weight.shape != logits.shape[:1] or u.ndim not in (2, 3) or u.shape[-2:] != logits.shape:
        msg = (
            f"logits have shape {tuple(logits.shape)}, weight {tuple(weight.shape)}, u {tuple(u.shape)}: "
            "expected (N, V), (N,), and (N, V) or (k, N, V)."
        )
        raise ValueError(msg)
    if out is None:
        out = torch.empty_like(u)  # keeps u's strides where u is dense
    elif out.shape != u.shape or out.dtype != u.dtype or has_overlap(out):
        msg = (
            f"out has shape {tuple(out.shape)}, strides {out.stride()} and dtype {out.dtype}: expected u's shape "
            f"{tuple(u.shape)} and dtype {u.dtype}, each element in a place of its own."
        )
        raise ValueError(msg)
    rows, classes = logits.shape
    directions = 1 if u.ndim == 2 else len(u)
    if not rows * classes * directions:
        return out
    if directions > _MOST_DIRECTIONS:
        msg = f"u holds {directions} directions: expected at most {_MOST_DIRECTIONS}. Pass them piece by piece."
        raise ValueError(msg)
    wide = torch.float64 if torch.float64 in (logits.dtype, u.dtype) else torch.float32
    u_k, out_k = (0, 0) if u.ndim == 2 else (u.stride(0), out.stride(0))
    block, warps = launch_options(classes)
    with on_device(logits):
        _ce_hvp_kernel[(rows, directions)](
            logits.detach(),
            (weight.view(torch.uint8) if weight.dtype == torch.bool else weight).detach(),
            u.detach(),
            out,
            classes,
            *logits.stride(),
            *weight.stride(),
            u_k,
            *u.stride()[-2:],
            out_k,
            *out.stride()[-2:],
            BLOCK=block,
            SUM=tl.float64 if wide is torch.float64 else tl.float32,
            LEAST=torch.finfo(wide).min,
            num_warps=warps,
            enable_fp_fusion=True,  # named, because Triton 3.9 warns of a default that is to change
        )
    return out
