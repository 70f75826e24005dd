r"""Cross-entropy of a linear head by chunks of rows: loss, gradient, slopes and second-order products, in plain torch.

With :math:`a = \sigma(hW^\top + b)`, :math:`z = f(a)`, :math:`p = \operatorname{softmax} z` and a direction
(dh, dW, db) of the inputs, :math:`\alpha = \sigma(dh\,W^\top + h\,dW^\top + db)` and :math:`u = f'(a)\,\alpha`:

- loss: :math:`\ell = s(\operatorname{lse} z - \langle q/s, z\rangle)`, its gradient in a :math:`\rho = s(p - q/s) f'`;
- Gauss-Newton: :math:`y = s\,p\,(u - \langle p, u\rangle)\,f'`, products :math:`yW,\ y^\top h,\ \sum y`;
- Hessian: :math:`y' = y + s(p - q/s) f'' \alpha`, the same products of y', and :math:`\rho\,dW`, :math:`\rho^\top dh`.

Matmuls of the head's size, :math:`2NVD` operations each: loss 1, gradient 3, slopes 3, Gauss-Newton 5, Hessian 7.

A chunk's tensors are (V, R): with the vocabulary first, a CPU's matmuls :math:`W h^\top` take 0.6 of the time of
:math:`h W^\top` (MKL, R = 128 to 2048). The softmax is not divided by its sum, nor anything multiplied by a row's
factor: both go into (R, D) operands of the matmuls. Everything is computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from attrs import define, frozen
from torch import Tensor

from curvkit_core.kernels.linear_ce_options import LinearCeOptions, RowTargets, read_targets
from curvkit_core.kernels.row_chunks import Rows, row_chunks

__all__ = ["ChunkedLinearCe", "HeadInputs", "Wanted", "chunked_linear_ce", "map_logits"]

#: hidden (N, D), weight (V, D), bias (V,) or None; of a direction, None is zero, and a leading axis k may be there.
HeadInputs = tuple[Tensor | None, Tensor | None, Tensor | None]
Wanted = tuple[bool, bool, bool]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def _numbers_only(sweep: Callable[Concatenate[S, HeadInputs, P], R]) -> Callable[Concatenate[S, HeadInputs, P], R]:
    """Record no graph, and compute in the dtypes that the sums ask for, not in autocast's."""

    @wraps(sweep)
    def plain(first: S, y: HeadInputs, /, *args: P.args, **kwargs: P.kwargs) -> R:
        assert y[0] is not None
        with torch.no_grad(), torch.autocast(y[0].device.type, enabled=False):
            return sweep(first, y, *args, **kwargs)

    return plain


@frozen
class ChunkedLinearCe:
    """The eager reference of :class:`curvkit_core.kernels.LinearCe`, which says what the methods give."""

    @_numbers_only
    def __call__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, /) -> Tensor:
        """One loss a row, (N,), 0 where it does not count."""
        walk = _Walk(y, targets, options)
        out = walk.zeros(len(targets))
        for chunk in walk.chunks(tensors=2 if options.softcap is None else 4):
            z = chunk.logits()
            z.sub_(z.amax(0))
            z_y = z[chunk.index, chunk.columns]
            # where: 0 times -inf, a masked word that takes no mass, is 0
            own = torch.where(chunk.share > 0, chunk.share * z_y, 0.0) + chunk.spread_over(z) / chunk.mass
            out[chunk.rows] = chunk.mass * (z.exp_().sum(0).log() - own)
        return out

    @_numbers_only
    def gradient(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, weights: Tensor, wanted: Wanted, /
    ) -> tuple[Tensor, ...]:
        """The gradient of the rows' losses times `weights`, summed, in the wanted inputs."""
        walk = _Walk(y, targets, options)
        out = _Sums(walk, wanted, rows=1)
        for chunk in walk.chunks(tensors=1 if options.softcap is None else 4):
            residual, total = chunk.softmax()
            chunk.subtract_targets(residual, total)
            if chunk.slope is not None:
                residual.mul_(chunk.slope)
            factor = chunk.factor(weights, total)
            out.add(0, chunk, residual, factor)
        return tuple(t[0] for t in out.results())

    @_numbers_only
    def slopes(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, along: HeadInputs, also: HeadInputs | None, /
    ) -> Tensor:
        """Each row's first derivative along one direction, or its second along two: (N,)."""
        walk = _Walk(y, targets, options)
        out = walk.zeros(len(targets))
        d, e = walk.direction(along), None if also is None else walk.direction(also)
        plain = options.softcap is None
        for chunk in walk.chunks(tensors=(3 if plain else 6) if e is None else (7 if plain else 10)):
            p, total = chunk.softmax()
            u = chunk.change(d)
            if e is None:
                du = u if chunk.slope is None else u.mul_(chunk.slope)
                rate = chunk.under_targets(du, p, total)
            else:
                v = chunk.change(e)
                second = chunk.cross(d, e)  # of a: it is bilinear
                if chunk.slope is not None and chunk.bend is not None:
                    second.mul_(chunk.slope).add_(chunk.bend * u * v)
                    u, v = u.mul_(chunk.slope), v.mul_(chunk.slope)
                u_mean, v_mean = (p * u).sum(0) / total, (p * v).sum(0) / total
                rate = chunk.under_targets(second, p, total) + (p * u.sub_(u_mean)).mul_(v.sub_(v_mean)).sum(0) / total
            out[chunk.rows] = chunk.mass * rate
        return out

    @_numbers_only
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
        walk = _Walk(y, targets, options)
        d = walk.direction(along)
        directions = next(t.shape[0] for t in along if t is not None)
        out = _Sums(walk, wanted, rows=directions)
        plain = options.softcap is None
        in_place = plain and directions == 1  # p is not needed once u is there, and becomes p - q / s
        for chunk in walk.chunks(
            tensors=(2 if gauss_newton or in_place else 3) if plain else (6 if gauss_newton else 8)
        ):
            p, total = chunk.softmax()
            factor = chunk.factor(weights, total)
            residual = None if gauss_newton or in_place else chunk.subtract_targets(p.clone(), total)
            rho = residual if residual is None or chunk.slope is None else residual * chunk.slope
            for k in range(directions):
                change = chunk.change(d, k)
                u = change if chunk.slope is None else change * chunk.slope
                u.mul_(p)
                u.addcmul_(p, u.sum(0).div_(total), value=-1)
                if chunk.slope is not None:
                    u.mul_(chunk.slope)
                    if residual is not None and chunk.bend is not None:
                        u.add_(change.mul_(chunk.bend).mul_(residual))
                out.add(k, chunk, u, factor)
                if not gauss_newton:
                    out.add_cross(k, chunk, chunk.subtract_targets(p, total) if rho is None else rho, factor, d)
        return out.results()


#: The reference, as a kernel.
chunked_linear_ce = ChunkedLinearCe()


@_numbers_only
def map_logits(
    fn: Callable[[Tensor, int], Tensor], y: HeadInputs, targets: Tensor, options: LinearCeOptions, /
) -> Tensor:
    """What `fn` makes of the logits of the rows whose target is not ignored, a chunk after the other, put together.

    ``fn(logits (R, V), number of the first row among those)`` -> (R, ...).
    """
    walk = _Walk(y, targets, options)
    walk.targets.keep = targets != options.ignore_index  # a target of mass 0 is a unit, too
    found, low = [], 0
    for chunk in walk.chunks(tensors=6):  # what is made of them may be in float64
        found.append(fn(chunk.logits().mT.contiguous(), low))
        low += len(chunk.hidden)
    return torch.cat(found) if found else targets.new_empty(0)


class _Walk:
    """One walk over all rows: the inputs in the dtype of the sums, and the buffers that its chunks share."""

    def __init__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions) -> None:
        hidden, weight, bias = y
        assert hidden is not None
        assert weight is not None
        dtypes = [t.dtype for t in y if t is not None]
        self.dtype = torch.float32
        for dtype in dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)
        self.y = y
        self.options = options
        self.hidden = hidden
        self.weight = weight.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype) * options.logit_scale
        self.classes = weight.shape[0]
        self.targets: RowTargets = read_targets(targets, self.classes, options, self.dtype)
        self._buffers: dict[str, Tensor] = {}

    def zeros(self, *shape: int) -> Tensor:
        """Zeros for a sum."""
        return self.hidden.new_zeros(shape, dtype=self.dtype)

    def direction(self, along: HeadInputs) -> HeadInputs:
        """A direction of the inputs; the hidden states' and the bias's in units of a."""
        dh, dW, db = (None if t is None else t.to(self.dtype) for t in along)
        scale = self.options.logit_scale
        return dh if dh is None or scale == 1.0 else dh * scale, dW, db if db is None else db * scale

    def chunks(self, *, tensors: int) -> Iterator[_Chunk]:
        """The chunks, of which each holds so many (V, R) tensors at most."""
        bytes_a_row = tensors * self.classes * self.weight.element_size()
        for rows in row_chunks(self.targets.keep, bytes_a_row, self.options.chunk_bytes):
            yield _Chunk(self, rows)

    def buffer(self, name: str, columns: int) -> Tensor:
        """A (V, R) tensor, the same memory for every chunk: the first is never smaller than the others."""
        if name not in self._buffers:
            self._buffers[name] = self.hidden.new_empty(self.classes * columns, dtype=self.dtype)
        return self._buffers[name][: self.classes * columns].view(self.classes, columns)


class _Chunk:
    """Some rows: a column of the (V, R) tensors each."""

    def __init__(self, walk: _Walk, rows: Rows) -> None:
        self.walk = walk
        self.rows = rows
        self.hidden = walk.hidden[rows].to(walk.dtype)
        if walk.options.logit_scale != 1.0:
            self.hidden = self.hidden * walk.options.logit_scale
        t = walk.targets
        self.index, self.mass, self.share = t.index[rows], t.mass[rows], t.share[rows]
        self.columns = torch.arange(len(self.hidden), device=self.hidden.device)
        self.slope: Tensor | None = None  # f', and f'' where there is a soft cap
        self.bend: Tensor | None = None

    def logits(self) -> Tensor:
        """z; with a soft cap also `slope` and `bend`."""
        walk, cap = self.walk, self.walk.options.softcap
        z = torch.mm(walk.weight, self.hidden.mT, out=walk.buffer("logits", len(self.hidden)))
        if walk.bias is not None:
            z.add_(walk.bias[:, None])
        if cap is not None:
            z.div_(cap).tanh_()
            self.slope = 1.0 - z.square()
            self.bend = (z * self.slope).mul_(-2.0 / cap)
            z.mul_(cap)
        return z

    def softmax(self) -> tuple[Tensor, Tensor]:
        """e^(z - max z) and its sums (R,): a softmax not yet divided."""
        z = self.logits()
        z.sub_(z.amax(0)).exp_()
        return z, z.sum(0)

    def change(self, d: HeadInputs, k: int | None = None) -> Tensor:
        """Alpha, the change of a, along one direction, or along number `k` of several."""
        dh, dW, db = (t if t is None or k is None else t[k] for t in d)
        out = self.walk.buffer("change", len(self.hidden)) if k is not None else None
        if dh is not None:
            out = torch.mm(self.walk.weight, dh[self.rows].mT, out=out)
            if dW is not None:
                out.addmm_(dW, self.hidden.mT)
        elif dW is not None:
            out = torch.mm(dW, self.hidden.mT, out=out)
        else:
            out = self._zeroed(out)
        return out if db is None else out.add_(db[:, None])

    def cross(self, d: HeadInputs, e: HeadInputs) -> Tensor:
        """What is bilinear in a: dh dW'^T + dh' dW^T."""
        out = self._zeroed(None)
        for one, other in ((d, e), (e, d)):
            if one[0] is not None and other[1] is not None:
                out.addmm_(other[1], one[0][self.rows].mT)
        return out

    def subtract_targets(self, p: Tensor, total: Tensor) -> Tensor:
        """P times its total, less q / s times it; in place."""
        spread = self.walk.targets.spread
        if spread is not None:
            ratio = total / self.mass
            p.sub_(ratio * spread) if isinstance(spread, float) else p.addcmul_(spread[:, None], ratio, value=-1)
        p[self.index, self.columns] -= total * self.share
        return p

    def under_targets(self, change: Tensor, p: Tensor, total: Tensor) -> Tensor:
        """<p - q / s, change> in each row."""
        own = self.share * change[self.index, self.columns] + self.spread_over(change) / self.mass
        return (p * change).sum(0) / total - own

    def spread_over(self, t: Tensor) -> Tensor | float:
        """<eps w / V, t> in each row."""
        spread = self.walk.targets.spread
        if spread is None:
            return 0.0
        if isinstance(spread, float):
            return t.sum(0) * spread
        return torch.mv(torch.where(spread[:, None] > 0, t, 0.0).mT, spread)

    def factor(self, weights: Tensor | None, total: Tensor) -> Tensor:
        """What each row's column counts with: its weight, its mass, and the softmax's division."""
        factor = self.mass / total
        return factor if weights is None else factor * weights[self.rows].to(factor.dtype)

    def _zeroed(self, out: Tensor | None) -> Tensor:
        return self.walk.zeros(self.walk.classes, len(self.hidden)) if out is None else out.zero_()


@define
class _Place:
    """Where a sum is kept, and its input's dtype."""

    total: Tensor
    dtype: torch.dtype


class _Sums:
    """Products with the transposed head, summed over chunks: for the wanted inputs only."""

    def __init__(self, walk: _Walk, wanted: Wanted, *, rows: int) -> None:
        self.walk = walk
        self._places = [
            _Place(walk.zeros(rows, *t.shape), t.dtype) if want and t is not None else None
            for want, t in zip(wanted, walk.y, strict=True)
        ]

    def add(self, k: int, chunk: _Chunk, y: Tensor, factor: Tensor) -> None:
        """Add y W, y^T h and the sum of y, y being a (V, R) derivative in a, times the rows' factors."""
        in_hidden, in_weight, in_bias = self._places
        scale = self.walk.options.logit_scale
        if in_hidden is not None:
            in_hidden.total[k, chunk.rows] += torch.mm(y.mT, self.walk.weight).mul_((factor * scale)[:, None])
        if in_weight is not None:
            in_weight.total[k].addmm_(y, chunk.hidden * factor[:, None])
        if in_bias is not None:
            in_bias.total[k].addmv_(y, factor * scale)

    def add_cross(self, k: int, chunk: _Chunk, rho: Tensor, factor: Tensor, d: HeadInputs) -> None:
        """Add rho dW and rho^T dh: the Hessian's part that the bilinear map itself has."""
        in_hidden, in_weight, _ = self._places
        dh, dW, _ = d
        if in_hidden is not None and dW is not None:
            scaled = (factor * self.walk.options.logit_scale)[:, None]
            in_hidden.total[k, chunk.rows] += torch.mm(rho.mT, dW[k]).mul_(scaled)
        if in_weight is not None and dh is not None:
            in_weight.total[k].addmm_(rho, dh[k, chunk.rows] * factor[:, None])

    def results(self) -> tuple[Tensor, ...]:
        """The wanted ones, in their inputs' dtypes."""
        return tuple(place.total.to(place.dtype) for place in self._places if place is not None)
