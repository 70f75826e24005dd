r"""Cross-entropy of a linear head in Triton: core's four sweeps, of which none holds a tensor of size (N, V).

Two sweeps over tiles of logits, both of which compute them: sweep 1 (`linear_ce_stats`) gives each row its max,
:math:`\sum e^z` and :math:`\sum e^z u`; sweep 2 adds up what the tiles give to the hidden states' part, a block of rows
a program (`linear_ce_rows`), and what they give to the weight's and the bias's, a block of words a program
(`linear_ce_words`). Where these blocks are too few to keep the device busy, the other side is split and the parts are
summed afterwards, within the options' ``chunk_bytes``. There are no atomics: a second call gives the same bits.

Matmuls of the head's size, with every input wanted and every direction there: loss 1, slopes 3, gradient 5,
Gauss-Newton 11, Hessian 13. Swapped loops cost 3 of these, the tile computed twice in sweep 2, that atomics would save.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from attrs import define, frozen
from torch import Tensor

from curvkit_core.kernels import LinearCeOptions, RowTargets, chunked_linear_ce, read_targets
from curvkit_triton.layout import check_device, check_dtypes, is_interpreted, on_device, processors
from curvkit_triton.linear_ce_rows import rows_kernel
from curvkit_triton.linear_ce_stats import stats_kernel
from curvkit_triton.linear_ce_words import words_kernel

__all__ = ["TritonLinearCe", "launch_options", "triton_linear_ce"]

#: hidden (N, D), weight (V, D), bias (V,) or None, as core's protocol has them.
HeadInputs = tuple[Tensor | None, Tensor | None, Tensor | None]
Wanted = tuple[bool, bool, bool]

_NAME = "triton/linear-ce"
_INSTEAD = "core/linear-ce"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_TL = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
_FAR = 2**31 // 128 - 2**16
_NO_DIRECTION: HeadInputs = (None, None, None)


@frozen
class TritonLinearCe:
    """:class:`curvkit_core.kernels.LinearCe` on a GPU, in float16, bfloat16 and float32, with all options.

    Sums are float32. Second slopes, which forward mode over forward mode alone asks for, are core's reference's:
    their covariance of two directions is no sum that one sweep can keep without losing digits.

    Raises
    ------
    ValueError
        By each method, for tensors that are on no GPU, or not on the same.
    TypeError
        For another dtype.
    """

    def __call__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, /) -> Tensor:
        """One loss a row, (N,), 0 where it does not count."""
        with torch.no_grad(), on_device(y[0]):
            head = _Head.read(y, targets, options, _NO_DIRECTION)
            stats = head.stats(weighed="logits")
            return head.of_all_rows(head.mass * (stats.top - stats.weighed[0] + stats.total.log()))

    def gradient(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, weights: Tensor, wanted: Wanted, /
    ) -> tuple[Tensor, ...]:
        """The gradient of the rows' losses times `weights`, summed, in the wanted inputs."""
        with torch.no_grad(), on_device(y[0]):
            head = _Head.read(y, targets, options, _NO_DIRECTION)
            return tuple(t[0] for t in head.sums(weights, wanted, "gradient"))

    def slopes(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, along: HeadInputs, also: HeadInputs | None, /
    ) -> Tensor:
        """Each row's first derivative along one direction, or its second along two: (N,)."""
        if also is not None:
            return chunked_linear_ce.slopes(y, targets, options, along, also)
        with torch.no_grad(), on_device(y[0]):
            d0, d1, d2 = (None if t is None else t[None] for t in along)
            head = _Head.read(y, targets, options, (d0, d1, d2))
            stats = head.stats(weighed="change")
            return head.of_all_rows(head.mass * (stats.mean[0] - stats.weighed[0]))

    def product(
        self,
        y: HeadInputs,
        targets: Tensor,
        options: LinearCeOptions,
        weights: Tensor | None,
        along: HeadInputs,
        wanted: Wanted,
        /,
        *,
        gauss_newton: bool,
    ) -> tuple[Tensor, ...]:
        """Hessian or Gauss-Newton matrix of the rows' losses times `weights`, summed, along k directions."""
        with torch.no_grad(), on_device(y[0]):
            head = _Head.read(y, targets, options, along)
            return head.sums(weights, wanted, "gauss-newton" if gauss_newton else "hessian")


#: The kernel.
triton_linear_ce = TritonLinearCe()


def launch_options(operand: torch.dtype, order: str = "") -> dict[str, Any]:
    """Blocks, warps and stages: the largest of which no register spills on the chips that are compiled for.

    The Hessian's sweep 2 holds two tiles more than the others; float32 is three products of each pair of operands.
    """
    if torch.version.hip is not None:
        blocks, warps, stages = (64, 64, 32), 4, 1
    elif operand == torch.float32:
        blocks, warps, stages = (32, 64, 16), 8, 2
    else:
        blocks, warps, stages = (32, 64, 32) if order == "hessian" else (64, 128, 32), 8, 2
    n, v, d = blocks
    # named, because Triton 3.9 warns of a default that is to change
    fusion = {"enable_fp_fusion": True}
    return {"BLOCK_N": n, "BLOCK_V": v, "BLOCK_D": d, "num_warps": warps, "num_stages": stages} | fusion


@frozen
class _Stats:
    """Sweep 1, put together: top and total (n,), mean <p, u> and <q/s, .> (k, n)."""

    top: Tensor
    total: Tensor
    mean: Tensor
    weighed: Tensor


@define(eq=False)
class _Head:
    """The inputs of a launch: the rows that count, their targets' masses, and directions with a leading axis k."""

    y: HeadInputs
    options: LinearCeOptions
    all_rows: int
    kept: Tensor | None  # numbers of the rows that count; None: all do
    targets: RowTargets
    spread: Tensor | None
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    along: HeadInputs
    directions: int
    operand: torch.dtype

    @classmethod
    def read(cls, y: HeadInputs, targets: Tensor, options: LinearCeOptions, along: HeadInputs) -> _Head:
        """Check, and take out the rows that do not count: they cost nothing, and may hold anything."""
        hidden, weight, bias = y
        assert hidden is not None
        assert weight is not None
        named = {"hidden": hidden, "weight": weight, "bias": bias}
        named |= dict(zip(("dh", "dW", "db"), along, strict=True))
        check_device(_NAME, _INSTEAD, **named, targets=targets)
        check_dtypes(_NAME, _INSTEAD, _DTYPES, **named)
        masses = read_targets(targets, len(weight), options, torch.float32)
        kept = None if bool(masses.keep.all()) else masses.keep.nonzero()[:, 0]
        if kept is not None:
            masses = RowTargets(
                index=masses.index[kept],
                keep=masses.keep[kept],
                mass=masses.mass[kept],
                share=masses.share[kept],
                spread=masses.spread,
            )
        spread = masses.spread
        if isinstance(spread, float):
            spread = torch.full((len(weight),), spread, dtype=torch.float32, device=weight.device)
        dh, dW, db = along
        operands = {t.dtype for t in (hidden, weight, dh, dW) if t is not None}
        return cls(
            y=y,
            options=options,
            all_rows=len(hidden),
            kept=kept,
            targets=masses,
            spread=spread,
            hidden=_in_lines(hidden if kept is None else hidden[kept]),
            weight=_in_lines(weight),
            bias=None if bias is None else bias.detach().contiguous(),
            along=(
                None if dh is None else _in_lines(dh if kept is None else dh[:, kept]),
                None if dW is None else _in_lines(dW),
                None if db is None else _in_lines(db),
            ),
            directions=next((len(t) for t in along if t is not None), 1),
            operand=operands.pop() if len(operands) == 1 else torch.float32,
        )

    @property
    def mass(self) -> Tensor:
        """s of the rows that count."""
        return self.targets.mass

    def of_all_rows(self, values: Tensor) -> Tensor:
        """Values (..., n) or (k, n, D) of the rows that count, along `dim` 0 or 1, among zeros for the others."""
        if self.kept is None:
            return values
        dim = 0 if values.ndim == 1 else 1
        shape = list(values.shape)
        shape[dim] = self.all_rows
        return values.new_zeros(shape).index_copy_(dim, self.kept, values)

    def stats(self, *, weighed: str = "none") -> _Stats:
        """Sweep 1."""
        n, words, k = len(self.hidden), len(self.weight), self.directions
        options = launch_options(self.operand)
        blocks = -(-n // options["BLOCK_N"])
        split, parts = self._split(words, options["BLOCK_V"], blocks * k, bytes_a_part=16 * k * n)
        out = self.hidden.new_empty((4, k, parts, n), dtype=torch.float32)
        if n:
            stats_kernel[(blocks, parts, k)](
                *self._inputs(),
                *self._targets(),
                out,
                n,
                words,
                self.hidden.shape[1],
                split,
                *self._strides(),
                out.stride(0),
                *self._numbers(),
                **self._flags(),
                TARGETS=weighed,
                LEAST=torch.finfo(torch.float32).min,
                **self._operands(),
                **options,
            )
        high, total, inner, weighing = out
        top = high.amax(1)
        scale = torch.exp(high - top[:, None])
        total = (total * scale).sum(1)
        # a direction changes neither of the first two
        return _Stats(top[0], total[0], (inner * scale).sum(1) / total, weighing.sum(1))

    def sums(self, weights: Tensor | None, wanted: Wanted, order: str) -> tuple[Tensor, ...]:
        """Sweep 1 and sweep 2: (k, ...) for each of y that is wanted, in its dtype."""
        hidden, weight, bias = self.y
        in_hidden, in_weight, in_bias = wanted[0], wanted[1], wanted[2] and bias is not None
        if not (in_hidden or in_weight or in_bias):
            return ()
        stats = self.stats()
        factor = self.mass * self.options.logit_scale
        if weights is not None:
            factor = factor * (weights if self.kept is None else weights[self.kept]).to(factor.dtype)
        rows = (stats.top, 1.0 / stats.total, stats.mean.contiguous(), factor.contiguous())
        found = []
        if in_hidden:
            assert hidden is not None
            found.append(self.of_all_rows(self._by_rows(rows, order).to(hidden.dtype)))
        if in_weight or in_bias:
            of_weight, of_bias = self._by_words(rows, order, in_weight, in_bias)
            if in_weight:
                assert weight is not None
                found.append(of_weight.to(weight.dtype))
            if in_bias:
                assert bias is not None
                found.append(of_bias.to(bias.dtype))
        return tuple(found)

    def _by_rows(self, of_rows: tuple[Tensor, ...], order: str) -> Tensor:
        """(k, n, D)."""
        (n, width), words, k = self.hidden.shape, len(self.weight), self.directions
        options = launch_options(self.operand, order)
        blocks = -(-n // options["BLOCK_N"])
        split, parts = self._split(words, options["BLOCK_V"], blocks * k, bytes_a_part=4 * k * n * width)
        out = self.hidden.new_zeros((parts, k, n, width), dtype=torch.float32)
        if n:
            rows_kernel[(blocks, parts, k)](
                *self._inputs(),
                *of_rows,
                *self._targets(),
                out,
                n,
                words,
                width,
                split,
                *self._strides(),
                *self._numbers(),
                **self._flags(),
                ORDER=order,
                **self._operands(),
                **options,
            )
        return out[0] if parts == 1 else out.sum(0)

    def _by_words(
        self, of_rows: tuple[Tensor, ...], order: str, in_weight: bool, in_bias: bool
    ) -> tuple[Tensor, Tensor]:
        """(k, V, D) and (k, V); what is not wanted holds nothing."""
        (n, width), words, k = self.hidden.shape, len(self.weight), self.directions
        options = launch_options(self.operand, order)
        blocks = -(-words // options["BLOCK_V"])
        each = 4 * k * words * ((width if in_weight else 0) + 1)
        split, parts = self._split(n, options["BLOCK_N"], blocks * k, bytes_a_part=each)
        out = self.hidden.new_zeros((parts, k, words if in_weight else 0, width), dtype=torch.float32)
        out_bias = self.hidden.new_zeros((parts, k, words if in_bias else 0), dtype=torch.float32)
        if n:
            words_kernel[(blocks, parts, k)](
                *self._inputs(),
                *of_rows,
                *self._targets(),
                out,
                out_bias,
                n,
                words,
                width,
                split,
                *self._strides(),
                *self._numbers(),
                **self._flags(),
                ORDER=order,
                WEIGHT=in_weight,
                BIAS=in_bias,
                **self._operands(),
                **options,
            )
        return (out[0], out_bias[0]) if parts == 1 else (out.sum(0), out_bias.sum(0))

    def _split(self, length: int, block: int, programs: int, *, bytes_a_part: int) -> tuple[int, int]:
        """A part's length, in whole blocks, and how many parts: two programs a processor, within ``chunk_bytes``."""
        blocks = max(1, -(-length // block))
        busy = -(-2 * processors(self.hidden.device) // max(1, programs))
        parts = max(1, min(blocks, busy, self.options.chunk_bytes // max(1, bytes_a_part)))
        each = -(-blocks // parts)
        return each * block, -(-blocks // each)

    def _inputs(self) -> tuple[Tensor, ...]:
        """What the pointers of head and direction point to: the weight where a flag says that there is none."""
        pointers = (self.hidden, self.weight, self.bias, *self.along)
        return tuple(self.weight if t is None else t for t in pointers)

    def _targets(self) -> tuple[Tensor, ...]:
        t = self.targets
        spread = t.share if self.spread is None else self.spread
        return t.index, t.share.contiguous(), 1.0 / t.mass, spread

    def _strides(self) -> tuple[int, ...]:
        dh, dW, db = self.along
        of_dh = (0, 0) if dh is None else dh.stride()[:2]
        of_dW = (0, 0) if dW is None else dW.stride()[:2]
        return self.hidden.stride(0), self.weight.stride(0), *of_dh, *of_dW, 0 if db is None else db.stride(0)

    def _numbers(self) -> tuple[float, float]:
        return float(self.options.logit_scale), float(self.options.softcap or 1.0)

    def _flags(self) -> dict[str, bool]:
        dh, dW, db = self.along
        return {
            "HAS_BIAS": self.bias is not None,
            "HAS_DH": dh is not None,
            "HAS_DW": dW is not None,
            "HAS_DB": db is not None,
            "CAPPED": self.options.softcap is not None,
            "SPREAD": self.spread is not None,
        }

    def _operands(self) -> dict[str, Any]:
        # Triton 3.9's interpreter multiplies bfloat16's bit patterns as integers
        exact = is_interpreted() and self.operand is torch.bfloat16
        return {"OPERAND": tl.float32 if exact else _TL[self.operand], "PRECISION": matmul_precision()}


def matmul_precision() -> str:
    """How float32 operands are multiplied: as torch's own setting says, where "highest" keeps float32's digits.

    On CUDA that is three TF32 products, on tensor cores; on ROCm, whose matrix cores have it, float32 itself.
    """
    if torch.get_float32_matmul_precision() != "highest" and torch.version.hip is None:
        return "tf32"
    return "ieee" if is_interpreted() or torch.version.hip is not None else "tf32x3"


def _in_lines(t: Tensor) -> Tensor:
    """The same with neighbours in the last axis side by side; a copy where they are not.

    Or where lines are so far apart that a place inside a block, which is int32, could overflow.
    """
    t = t.detach()
    return t if t.stride(-1) == 1 and t.stride(-2) < _FAR else t.contiguous()
