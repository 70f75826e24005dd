r"""Sweep 2 over a linear head, by rows: the derivative in the hidden states, :math:`yW`, and :math:`\rho\,dW`.

The second is a Hessian's alone. Shapes: as in sweep 1, whose results come as top and rate = 1 / sum, (N,), and mean,
(k, N); the sum is (splits, k, N, D), float32, zeros at first. A program has a block of rows, one direction and its
share of the words, and is alone in its part of the sum: no atomics, and a second call gives the same bits.

Traffic: a tile of n rows and v words reads what sweep 1 reads and v D elements of the weight once more, from the L1 and
L2 caches; it reads and writes the n D float32 sums of its rows. Floor: N D + V D read and N D written, each once.
Matmuls of the head's size: 1 and up to 2 for the tile, 1 or 2 for the sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from curvkit_triton.linear_ce_tile import coefficients, dot_wide, head_tile

__all__ = ["rows_kernel"]


@triton.jit
def rows_kernel(
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
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """ORDER: as in `coefficients`. `split`: words a program, a multiple of BLOCK_V."""
    first = tl.program_id(0) * BLOCK_N
    part = tl.program_id(1)
    k = tl.program_id(2).to(tl.int64)
    first_row = first.to(tl.int64)
    hidden_ptr += first_row * stride_hidden
    dh_ptr += k * stride_dh_k + first_row * stride_dh
    dW_ptr += k * stride_dW_k
    db_ptr += k * stride_db_k
    top_ptr += first_row
    rate_ptr += first_row
    mean_ptr += k * rows + first_row
    factor_ptr += first_row
    target_ptr += first_row
    share_ptr += first_row
    thin_ptr += first_row
    out_ptr += ((part * tl.num_programs(2) + k) * rows + first_row) * width
    n = tl.arange(0, BLOCK_N)
    v = tl.arange(0, BLOCK_V)
    lanes = tl.arange(0, BLOCK_D)
    in_rows = n < rows - first
    for low in range(part * split, tl.minimum(words, (part + 1) * split), BLOCK_V):
        first_word = tl.cast(low, tl.int64)
        weight_low = weight_ptr + first_word * stride_weight
        dW_low = dW_ptr + first_word * stride_dW
        in_words = v < words - low
        a, alpha = head_tile(
            hidden_ptr,
            weight_low,
            bias_ptr + first_word,
            dh_ptr,
            dW_low,
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
        y, rho = coefficients(
            a,
            alpha,
            cap,
            n,
            v,
            in_rows,
            in_words,
            low,
            top_ptr,
            rate_ptr,
            mean_ptr,
            factor_ptr,
            target_ptr,
            share_ptr,
            thin_ptr,
            spread_ptr + first_word,
            CAPPED,
            SPREAD,
            ORDER,
        )
        for start in range(0, width, BLOCK_D):
            d = start + lanes
            by_row = in_rows[:, None] & (d < width)[None, :]
            by_word = in_words[:, None] & (d < width)[None, :]
            place = out_ptr + (n[:, None] * width + d[None, :])
            w = tl.load(weight_low + (v[:, None] * stride_weight + d[None, :]), mask=by_word, other=0.0)
            total = dot_wide(y, w.to(OPERAND), tl.load(place, mask=by_row, other=0.0), PRECISION)
            if ORDER == "hessian" and HAS_DW:
                dw = tl.load(dW_low + (v[:, None] * stride_dW + d[None, :]), mask=by_word, other=0.0)
                total = dot_wide(rho, dw.to(OPERAND), total, PRECISION)
            tl.store(place, total, mask=by_row)
        # the next tile's loads are other threads' stores of this one
        tl.debug_barrier()
