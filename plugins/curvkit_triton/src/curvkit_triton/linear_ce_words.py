r"""Sweep 2 over a linear head, by words: the derivatives in weight and bias, :math:`y^\top h`, :math:`\sum y`.

Of a Hessian :math:`\rho^\top dh` as well. Shapes: as by rows; the sums are (splits, k, V, D), zeros at first, and
(splits, k, V), float32. A program has a block of words, one direction and its share of the rows, and is alone in its
part of the sums: no atomics, and a second call gives the same bits.

Traffic: a tile of n rows and v words reads what sweep 1 reads and n D elements of the hidden states once more, from the
L1 and L2 caches; it reads and writes the v D float32 sums of its words. Floor: N D + V D read and V D written, each
once. Matmuls of the head's size: 1 and up to 2 for the tile, 1 or 2 for the sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from curvkit_triton.linear_ce_tile import coefficients, dot_wide, head_tile

__all__ = ["words_kernel"]


@triton.jit
def words_kernel(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    dh_ptr,
    dW_ptr,
    db_ptr,
    top_ptr,
    rate_ptr,
    mean_ptr,
    factor_ptr,
    target_ptr,
    share_ptr,
    thin_ptr,
    spread_ptr,
    out_ptr,
    out_bias_ptr,
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
    scale,
    cap,
    HAS_BIAS: tl.constexpr,
    HAS_DH: tl.constexpr,
    HAS_DW: tl.constexpr,
    HAS_DB: tl.constexpr,
    CAPPED: tl.constexpr,
    SPREAD: tl.constexpr,
    ORDER: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """ORDER: as in `coefficients`. WEIGHT, BIAS: what is wanted. `split`: rows a program, a multiple of BLOCK_N."""
    first = tl.program_id(0) * BLOCK_V
    part = tl.program_id(1)
    k = tl.program_id(2).to(tl.int64)
    first_word = first.to(tl.int64)
    weight_ptr += first_word * stride_weight
    bias_ptr += first_word
    dh_ptr += k * stride_dh_k
    dW_ptr += k * stride_dW_k + first_word * stride_dW
    db_ptr += k * stride_db_k + first_word
    mean_ptr += k * rows
    spread_ptr += first_word
    out_ptr += ((part * tl.num_programs(2) + k) * words + first_word) * width
    out_bias_ptr += (part * tl.num_programs(2) + k) * words + first_word
    n = tl.arange(0, BLOCK_N)
    v = tl.arange(0, BLOCK_V)
    lanes = tl.arange(0, BLOCK_D)
    in_words = v < words - first
    in_bias = tl.zeros((BLOCK_V,), tl.float32)
    for low in range(part * split, tl.minimum(rows, (part + 1) * split), BLOCK_N):
        first_row = tl.cast(low, tl.int64)
        hidden_low = hidden_ptr + first_row * stride_hidden
        dh_low = dh_ptr + first_row * stride_dh
        in_rows = n < rows - low
        a, alpha = head_tile(
            hidden_low,
            weight_ptr,
            bias_ptr,
            dh_low,
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
        y, rho = coefficients(
            a,
            alpha,
            cap,
            n,
            v,
            in_rows,
            in_words,
            first,
            top_ptr + first_row,
            rate_ptr + first_row,
            mean_ptr + first_row,
            factor_ptr + first_row,
            target_ptr + first_row,
            share_ptr + first_row,
            thin_ptr + first_row,
            spread_ptr,
            CAPPED,
            SPREAD,
            ORDER,
        )
        if BIAS:
            in_bias += tl.sum(y, 0)
        if WEIGHT:
            for start in range(0, width, BLOCK_D):
                d = start + lanes
                by_row = in_rows[:, None] & (d < width)[None, :]
                by_word = in_words[:, None] & (d < width)[None, :]
                place = out_ptr + (v[:, None] * width + d[None, :])
                h = tl.load(hidden_low + (n[:, None] * stride_hidden + d[None, :]), mask=by_row, other=0.0)
                total = tl.load(place, mask=by_word, other=0.0)
                total = dot_wide(tl.trans(y), h.to(OPERAND), total, PRECISION)
                if ORDER == "hessian" and HAS_DH:
                    dh = tl.load(dh_low + (n[:, None] * stride_dh + d[None, :]), mask=by_row, other=0.0)
                    total = dot_wide(tl.trans(rho), dh.to(OPERAND), total, PRECISION)
                tl.store(place, total, mask=by_word)
            # the next tile's loads are other threads' stores of this one
            tl.debug_barrier()
    if BIAS:
        tl.store(out_bias_ptr + v, in_bias, mask=in_words)
