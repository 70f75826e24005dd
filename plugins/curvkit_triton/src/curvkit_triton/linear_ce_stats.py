r"""Sweep 1 over a linear head: of each row the max, :math:`\sum e^z`, :math:`\sum e^z u`, and what the targets weigh.

Shapes: hidden (N, D), weight (V, D), directions (k, N, D), (k, V, D), (k, V); four results (k, splits, N), float32,
which the caller puts together: a program has a block of rows, one of the directions, and its share of the words.

Traffic: a tile of n rows and v words reads n D + v D elements of the head, and as many of the direction; the weight is
read N / n times, from the L2 cache where programs walk side by side. Floor: N D + V D, each once. Matmuls of the
head's size: 1, and up to 2 for the direction.
"""

from __future__ import annotations

import triton
import triton.language as tl

from curvkit_triton.linear_ce_tile import capped, head_tile, masses

__all__ = ["stats_kernel"]


@triton.jit
def stats_kernel(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    dh_ptr,
    dW_ptr,
    db_ptr,
    target_ptr,
    share_ptr,
    thin_ptr,
    spread_ptr,
    out_ptr,
    rows,
    words,
    width,
    split,
    stride_hidden,
    stride_weight,
    stride_dh_k,
    stride_dh,
    stride_dW_k,
    stride_dW,
    stride_db_k,
    stride_out,
    scale,
    cap,
    HAS_BIAS: tl.constexpr,
    HAS_DH: tl.constexpr,
    HAS_DW: tl.constexpr,
    HAS_DB: tl.constexpr,
    CAPPED: tl.constexpr,
    SPREAD: tl.constexpr,
    TARGETS: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """TARGETS: "none"; "logits", <q/s, z>; "change", <q/s, u>. `split`: words a program, a multiple of BLOCK_V."""
    first = tl.program_id(0) * BLOCK_N
    part = tl.program_id(1)
    k = tl.program_id(2).to(tl.int64)
    first_row = first.to(tl.int64)
    hidden_ptr += first_row * stride_hidden
    dh_ptr += k * stride_dh_k + first_row * stride_dh
    dW_ptr += k * stride_dW_k
    db_ptr += k * stride_db_k
    n = tl.arange(0, BLOCK_N)
    v = tl.arange(0, BLOCK_V)
    in_rows = n < rows - first
    target = tl.load(target_ptr + first_row + n, mask=in_rows, other=-1).to(tl.int32)
    share = tl.load(share_ptr + first_row + n, mask=in_rows, other=0.0)
    thin = tl.load(thin_ptr + first_row + n, mask=in_rows, other=0.0)
    # from the least finite number, not from -inf, whose difference to a logit of -inf would be NaN
    high = tl.full((BLOCK_N,), LEAST, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    inner = tl.zeros((BLOCK_N,), tl.float32)
    weighed = tl.zeros((BLOCK_N,), tl.float32)
    for low in range(part * split, tl.minimum(words, (part + 1) * split), BLOCK_V):
        first_word = tl.cast(low, tl.int64)
        in_words = v < words - low
        a, alpha = head_tile(
            hidden_ptr,
            weight_ptr + first_word * stride_weight,
            bias_ptr + first_word,
            dh_ptr,
            dW_ptr + first_word * stride_dW,
            db_ptr + first_word,
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
            HAS_BIAS,
            HAS_DH,
            HAS_DW,
            HAS_DB,
            BLOCK_N,
            BLOCK_V,
            BLOCK_D,
            OPERAND,
            PRECISION,
        )
        z, u, _, _ = capped(a, alpha, cap, in_words, CAPPED)
        new = tl.maximum(high, tl.max(z, 1))
        fall = tl.exp(high - new)
        e = tl.exp(z - new[:, None])
        total = total * fall + tl.sum(e, 1)
        inner = inner * fall + tl.sum(e * u, 1)
        high = new
        if TARGETS != "none":
            q = masses(target - low, share, thin, spread_ptr + first_word, v, in_words, SPREAD)
            # a masked word that takes no mass must not give 0 times -inf
            value = z if TARGETS == "logits" else u
            weighed += tl.sum(q * tl.where(q > 0.0, value, 0.0), 1)
    out_ptr += (k * tl.num_programs(1) + part) * rows + first_row
    stride_out = tl.cast(stride_out, tl.int64)
    tl.store(out_ptr + n, high, mask=in_rows)
    tl.store(out_ptr + stride_out + n, total, mask=in_rows)
    tl.store(out_ptr + 2 * stride_out + n, inner, mask=in_rows)
    tl.store(out_ptr + 3 * stride_out + n, weighed, mask=in_rows)
