r"""What the linear cross-entropy kernels share: a tile of logits, and the derivatives' coefficients on it.

Of n rows and v words: :math:`a = \sigma(hW^\top + b)`, logits :math:`z = \kappa\tanh(a/\kappa)`, and along a
direction :math:`\alpha = \sigma(dh\,W^\top + h\,dW^\top + db)`, all (n, v), float32, in registers.

Where a block starts is computed in int64, for one number; places inside it are int32, which saves half of the registers
that addresses take.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["capped", "coefficients", "dot_wide", "head_tile", "masses"]


@triton.jit
def head_tile(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    dh_ptr,
    dW_ptr,
    db_ptr,
    n,
    v,
    in_rows,
    in_words,
    width,
    stride_hidden,
    stride_weight,
    stride_dh,
    stride_dW,
    scale,
    HAS_BIAS: tl.constexpr,
    HAS_DH: tl.constexpr,
    HAS_DW: tl.constexpr,
    HAS_DB: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """a and alpha. Pointers are the block's; n and v count inside it, and what is not in the masks reads as zeros."""
    a = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    alpha = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    lanes = tl.arange(0, BLOCK_D)
    for low in range(0, width, BLOCK_D):
        d = low + lanes
        by_row = in_rows[:, None] & (d < width)[None, :]
        by_word = in_words[None, :] & (d < width)[:, None]
        h = tl.load(hidden_ptr + (n[:, None] * stride_hidden + d[None, :]), mask=by_row, other=0.0).to(OPERAND)
        w = tl.load(weight_ptr + (v[None, :] * stride_weight + d[:, None]), mask=by_word, other=0.0).to(OPERAND)
        a = tl.dot(h, w, a, input_precision=PRECISION)
        if HAS_DH:
            dh = tl.load(dh_ptr + (n[:, None] * stride_dh + d[None, :]), mask=by_row, other=0.0).to(OPERAND)
            alpha = tl.dot(dh, w, alpha, input_precision=PRECISION)
        if HAS_DW:
            dw = tl.load(dW_ptr + (v[None, :] * stride_dW + d[:, None]), mask=by_word, other=0.0).to(OPERAND)
            alpha = tl.dot(h, dw, alpha, input_precision=PRECISION)
    if HAS_BIAS:
        a += tl.load(bias_ptr + v, mask=in_words, other=0.0).to(tl.float32)[None, :]
    if HAS_DB:
        alpha += tl.load(db_ptr + v, mask=in_words, other=0.0).to(tl.float32)[None, :]
    return a * scale, alpha * scale


@triton.jit
def capped(a, alpha, cap, in_words, CAPPED: tl.constexpr):
    """z, u, f' and f''; words past the last have z = -inf, and u is 0 where z is -inf."""
    slope = tl.full(a.shape, 1.0, tl.float32)
    bend = tl.zeros(a.shape, tl.float32)
    z = a
    u = alpha
    if CAPPED:
        t = a / cap
        size = tl.abs(t)
        fall = tl.exp(-2.0 * size)
        # (1 - fall) / (1 + fall) loses digits near 0, where the series to t^11 is off by 2e-9 of tanh at most
        small = tl.minimum(size, 0.25)
        s = small * small
        series = small * (
            1.0
            + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0 - s * (1382.0 / 155925.0)))))
        )
        tanh = tl.where(size < 0.25, series, (1.0 - fall) / (1.0 + fall))
        tanh = tl.where(t < 0.0, -tanh, tanh)
        slope = 4.0 * fall / ((1.0 + fall) * (1.0 + fall))
        bend = -2.0 / cap * tanh * slope
        z = cap * tanh
        u = slope * alpha
    z = tl.where(in_words[None, :], z, float("-inf"))
    u = tl.where(z == float("-inf"), 0.0, u)
    return z, u, slope, bend


@triton.jit
def masses(target, share, thin, spread_ptr, v, in_words, SPREAD: tl.constexpr):
    """q / s on the tile: the target's `share`, and what smoothing gives every word, over the row's mass (`thin`)."""
    q = tl.where(v[None, :] == target[:, None], share[:, None], 0.0)
    if SPREAD:
        q += tl.load(spread_ptr + v, mask=in_words, other=0.0)[None, :] * thin[:, None]
    return q


@triton.jit
def coefficients(
    a,
    alpha,
    cap,
    n,
    v,
    in_rows,
    in_words,
    first_word,
    top_ptr,
    rate_ptr,
    mean_ptr,
    factor_ptr,
    target_ptr,
    share_ptr,
    thin_ptr,
    spread_ptr,
    CAPPED: tl.constexpr,
    SPREAD: tl.constexpr,
    ORDER: tl.constexpr,
):
    """What a tile of the logits' derivative holds, y, and what the Hessian's cross terms take besides, rho.

    ORDER "gradient": y = rho = s (p - q/s) f'. "gauss-newton": y = s p (u - <p, u>) f'. "hessian": y has besides
    s (p - q/s) f'' alpha. Rows past the last, whose factor is read as 0, give zeros.
    """
    z, u, slope, bend = capped(a, alpha, cap, in_words, CAPPED)
    top = tl.load(top_ptr + n, mask=in_rows, other=0.0)
    rate = tl.load(rate_ptr + n, mask=in_rows, other=0.0)
    factor = tl.load(factor_ptr + n, mask=in_rows, other=0.0)[:, None]
    # of a row past the last, top is 0 and z a bias: min keeps e^z finite
    p = tl.exp(tl.minimum(z - top[:, None], 0.0)) * rate[:, None]
    rho = tl.zeros(p.shape, tl.float32)
    if ORDER != "gauss-newton":
        target = tl.load(target_ptr + n, mask=in_rows, other=-1).to(tl.int32) - first_word
        share = tl.load(share_ptr + n, mask=in_rows, other=0.0)
        thin = tl.load(thin_ptr + n, mask=in_rows, other=0.0)
        rest = (p - masses(target, share, thin, spread_ptr, v, in_words, SPREAD)) * factor
        rho = rest * slope
    if ORDER == "gradient":
        y = rho
    else:
        mean = tl.load(mean_ptr + n, mask=in_rows, other=0.0)
        y = p * (u - mean[:, None]) * factor * slope
        if CAPPED and ORDER == "hessian":
            y += rest * bend * alpha
    return y, rho


@triton.jit
def dot_wide(y, w, total, PRECISION: tl.constexpr):
    """Total plus y w, y being float32 and of any scale: in 16 bits as two terms, which keep 16 of its 24 bits."""
    if w.dtype == tl.float32:
        return tl.dot(y, w, total, input_precision=PRECISION)
    size = 1.0
    if w.dtype == tl.float16:  # which lacks the range: the largest becomes 1024
        size = tl.maximum(tl.max(tl.max(tl.abs(y), 1), 0) / 1024.0, 1e-30)
        y = y / size
    leading = y.to(w.dtype)
    rest = (y - leading.to(tl.float32)).to(w.dtype)
    if w.dtype == tl.float16:
        found = tl.dot(leading, w, tl.dot(rest, w))
        return total + found * size
    return tl.dot(leading, w, tl.dot(rest, w, total))
