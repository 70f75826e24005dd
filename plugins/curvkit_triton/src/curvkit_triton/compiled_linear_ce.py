r"""Core's chunked linear cross-entropy under ``torch.compile``: a chunk's element-wise passes in as few as can be.

Chunks have a power of two of rows, so that few shapes are compiled; the rows that are left over go to core's reference.
The mathematics is that of ``curvkit_core.kernels.linear_ce_chunked``, written without writing in place. Matmuls of the
head's size: loss 1, gradient 3, slopes 3, Gauss-Newton 1 + 4k, Hessian 1 + 6k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from curvkit_core.kernels import LinearCeOptions, RowTargets, chunked_linear_ce, read_targets
from curvkit_triton.fallback import Fallback

__all__ = ["CompiledLinearCe", "compiled_linear_ce"]

#: hidden (N, D), weight (V, D), bias (V,) or None, as core's protocol has them.
HeadInputs = tuple[Tensor | None, Tensor | None, Tensor | None]
Wanted = tuple[bool, bool, bool]

_TENSORS = 6  # (rows, V) tensors of a chunk that may be there at once
_NONE: HeadInputs = (None, None, None)


def _logits(h: Tensor, W: Tensor, b: Tensor | None, cap: float | None, scale: float) -> tuple[Tensor, Any, Any]:
    """z (R, V), and with a soft cap f' and f''."""
    z = h @ W.mT
    z = (z if b is None else z + b) * scale
    if cap is None:
        return z, None, None
    t = torch.tanh(z / cap)
    slope = 1.0 - t * t
    return cap * t, slope, (-2.0 / cap) * t * slope


def _change(h: Tensor, W: Tensor, dh: Tensor | None, dW: Tensor | None, db: Tensor | None, scale: float) -> Tensor:
    """Alpha (R, V)."""
    parts = [] if dh is None else [dh @ W.mT]
    parts += [] if dW is None else [h @ dW.mT]
    total = parts[0] if parts else h.new_zeros(len(h), len(W))
    for part in parts[1:]:
        total = total + part
    return (total if db is None else total + db) * scale


def _masses(z: Tensor, index: Tensor, share: Tensor, thin: Tensor, spread: Any) -> Tensor:
    """q / s (R, V)."""
    hit = torch.arange(z.shape[1], device=z.device)[None] == index[:, None]
    q = torch.where(hit, share[:, None], 0.0)
    return q if spread is None else q + spread * thin[:, None]


def _values(
    y: HeadInputs, d: HeadInputs, rows: tuple[Tensor, ...], spread: Any, cap: float | None, scale: float, order: str
) -> Tensor:
    """Of each row the loss, or its slope along d."""
    h, W, b = y
    assert h is not None
    assert W is not None
    index, share, mass = rows[:3]
    z, slope, _ = _logits(h, W, b, cap, scale)
    z = z - z.amax(-1, keepdim=True)
    e = torch.exp(z)
    total = e.sum(-1)
    q = _masses(z, index, share, 1.0 / mass, spread)
    if order == "loss":
        # a masked word that takes no mass must not give 0 times -inf
        return mass * (total.log() - (q * torch.where(q > 0, z, 0.0)).sum(-1))
    u = _change(h, W, *d, scale)
    u = u if slope is None else u * slope
    return mass * ((e * u).sum(-1) / total - (q * u).sum(-1))


def _sums(
    y: HeadInputs,
    d: HeadInputs,
    rows: tuple[Tensor, ...],
    spread: Any,
    cap: float | None,
    scale: float,
    order: str,
    wanted: Wanted,
) -> list[Tensor]:
    """Of a chunk the gradient or the product, (k, ...) for each of y that is wanted."""
    h, W, b = y
    assert h is not None
    assert W is not None
    index, share, mass, weight = rows
    z, slope, bend = _logits(h, W, b, cap, scale)
    p = torch.softmax(z, -1)
    factor = (mass * weight * scale)[:, None]
    rest = None
    if order != "gauss-newton":
        rest = (p - _masses(z, index, share, 1.0 / mass, spread)) * factor
    found: list[list[Tensor]] = []
    for k in range(next((len(t) for t in d if t is not None), 1)):
        dh, dW, db = (None if t is None else t[k] for t in d)
        rho = rest if rest is None or slope is None else rest * slope
        if order == "gradient":
            t = rho
        else:
            change = _change(h, W, dh, dW, db, scale)
            u = change if slope is None else change * slope
            t = p * (u - (p * u).sum(-1, keepdim=True)) * factor
            t = t if slope is None else t * slope
            if order == "hessian" and bend is not None:
                assert rest is not None
                t = t + rest * bend * change
        assert t is not None
        cross = order == "hessian"
        rho = t if rho is None else rho
        parts = []
        if wanted[0]:
            parts.append(t @ W + rho @ dW if cross and dW is not None else t @ W)
        if wanted[1]:
            parts.append(t.mT @ h + rho.mT @ dh if cross and dh is not None else t.mT @ h)
        if wanted[2]:
            parts.append(t.sum(0))
        found.append(parts)
    return [torch.stack(column) for column in zip(*found, strict=True)]


@define(eq=False)
class CompiledLinearCe:
    """:class:`curvkit_core.kernels.LinearCe`, compiled; where the compiler fails, core's reference, which is said once.

    Parameters
    ----------
    compiler : callable
        ``torch.compile`` with shapes held fixed, or another that takes a function and gives one like it.
    fallback : Fallback
        Says whether, and why, the reference took over.

    Notes
    -----
    Second slopes, which forward mode over forward mode alone asks for, are the reference's.
    """

    compiler: Callable[[Any], Any] = field(factory=lambda: lambda f: torch.compile(f, fullgraph=True, dynamic=False))
    fallback: Fallback = field(factory=lambda: Fallback("triton/linear-ce-compile", "core/linear-ce"))
    _ready: tuple[Any, Any] | None = None

    def __call__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, /) -> Tensor:
        """One loss a row, (N,), 0 where it does not count."""
        return self._row_values(y, targets, options, _NONE, "loss")

    def gradient(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, weights: Tensor, wanted: Wanted, /
    ) -> tuple[Tensor, ...]:
        """The gradient of the rows' losses times `weights`, summed, in the wanted inputs."""
        return tuple(t[0] for t in self._row_sums(y, targets, options, weights, _NONE, wanted, "gradient"))

    def slopes(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, along: HeadInputs, also: HeadInputs | None, /
    ) -> Tensor:
        """Each row's first derivative along one direction, or its second along two: (N,)."""
        if also is not None:
            return chunked_linear_ce.slopes(y, targets, options, along, also)
        return self._row_values(y, targets, options, along, "slopes")

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
        order = "gauss-newton" if gauss_newton else "hessian"
        return self._row_sums(y, targets, options, weights, along, wanted, order)

    def _row_values(
        self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, d: HeadInputs, order: str
    ) -> Tensor:
        def reference(rows: Any) -> Tensor:
            at = (_taken(y[0], rows), *y[1:])
            if order == "loss":
                return chunked_linear_ce(at, targets[rows], options)
            return chunked_linear_ce.slopes(at, targets[rows], options, (_taken(d[0], rows), *d[1:]), None)

        if self.fallback.reason:
            return reference(slice(None))
        with torch.no_grad(), torch.autocast(targets.device.type, enabled=False), self.fallback as attempt:
            walk = _Walk(y, targets, options, d)
            out = walk.hidden.new_zeros(len(targets), dtype=walk.dtype)
            for rows in walk.chunks():
                out[rows] = self._functions()[0](*walk.arguments(rows), *walk.constants(order))
            if len(walk.rest):
                out[walk.rest] = reference(walk.rest)
        return reference(slice(None)) if attempt.failed else out

    def _row_sums(
        self,
        y: HeadInputs,
        targets: Tensor,
        options: LinearCeOptions,
        weights: Tensor | None,
        d: HeadInputs,
        wanted: Wanted,
        order: str,
    ) -> tuple[Tensor, ...]:
        wanted = (wanted[0], wanted[1], wanted[2] and y[2] is not None)

        def reference(rows: Any) -> tuple[Tensor, ...]:
            at, c = (_taken(y[0], rows), *y[1:]), _taken(weights, rows)
            if order == "gradient":
                assert c is not None
                return tuple(t[None] for t in chunked_linear_ce.gradient(at, targets[rows], options, c, wanted))
            along = (None if d[0] is None else d[0][:, rows], *d[1:])
            newton = order == "gauss-newton"
            return chunked_linear_ce.product(at, targets[rows], options, c, along, wanted, gauss_newton=newton)

        if self.fallback.reason or not any(wanted):
            return reference(slice(None))
        k = next((len(t) for t in d if t is not None), 1)
        with torch.no_grad(), torch.autocast(targets.device.type, enabled=False), self.fallback as attempt:
            walk = _Walk(y, targets, options, d)
            places = [t for t, want in zip(y, wanted, strict=True) if want and t is not None]
            sums = [t.new_zeros(k, *t.shape, dtype=walk.dtype) for t in places]
            parts: tuple[Tensor, ...] | list[Tensor]
            for rows in walk.chunks():
                c = walk.mass_like(weights, rows)
                parts = self._functions()[1](*walk.arguments(rows, c), *walk.constants(order), wanted)
                _add(sums, parts, rows, wanted)
            if len(walk.rest):
                _add(sums, reference(walk.rest), walk.rest, wanted)
        if attempt.failed:
            return reference(slice(None))
        return tuple(t.to(place.dtype) for t, place in zip(sums, places, strict=True))

    def _functions(self) -> tuple[Any, Any]:
        if self._ready is None:
            self._ready = (self.compiler(_values), self.compiler(_sums))
        return self._ready


#: The kernel.
compiled_linear_ce = CompiledLinearCe()


def _taken(t: Tensor | None, rows: Any) -> Tensor | None:
    return None if t is None else t[rows]


def _add(sums: list[Tensor], parts: Any, rows: Tensor, wanted: Wanted) -> None:
    """Add a chunk's parts; the hidden states' are its rows'."""
    for number, (total, part) in enumerate(zip(sums, parts, strict=True)):
        if wanted[0] and number == 0:
            total[:, rows] = part.to(total.dtype)
        else:
            total += part


class _Walk:
    """The inputs in the dtype of the sums, and the rows that count: in chunks of one size, and a rest."""

    def __init__(self, y: HeadInputs, targets: Tensor, options: LinearCeOptions, d: HeadInputs) -> None:
        hidden, weight, bias = y
        assert hidden is not None
        assert weight is not None
        self.dtype = torch.float32
        for t in y:
            if t is not None:
                self.dtype = torch.promote_types(self.dtype, t.dtype)
        self.hidden, self.options, self.lead = hidden, options, d[0] is not None and d[0].ndim == 3
        self.weight = weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.along = tuple(None if t is None else t.detach().to(self.dtype) for t in d)
        self.targets: RowTargets = read_targets(targets, len(weight), options, self.dtype)
        kept = self.targets.keep.nonzero()[:, 0]
        most = options.chunk_bytes // max(1, _TENSORS * len(weight) * self.weight.element_size())
        self._size = 1 << (max(1, min(len(kept), most)).bit_length() - 1)
        self._kept = kept
        self.rest = kept[len(kept) - len(kept) % self._size :]

    def chunks(self) -> Iterator[Tensor]:
        """The numbers of a chunk's rows."""
        yield from self._kept[: len(self._kept) - len(self.rest)].split(self._size) if len(self._kept) else ()

    def mass_like(self, weights: Tensor | None, rows: Tensor) -> Tensor:
        """The rows' weights."""
        mass = self.targets.mass[rows]
        return torch.ones_like(mass) if weights is None else weights[rows].to(mass.dtype)

    def arguments(self, rows: Tensor, weights: Tensor | None = None) -> tuple[Any, ...]:
        """y, d, and what is known of the rows' targets."""
        t = self.targets
        dh = self.along[0]
        taken = None if dh is None else dh[:, rows] if self.lead else dh[rows]
        of_rows = (t.index[rows], t.share[rows], t.mass[rows])
        h = self.hidden.detach()[rows].to(self.dtype)
        return (
            (h, self.weight, self.bias),
            (taken, *self.along[1:]),
            of_rows if weights is None else (*of_rows, weights),
        )

    def constants(self, order: str) -> tuple[Any, ...]:
        """What is compiled in; a spread that differs by class is a tensor."""
        return self.targets.spread, self.options.softcap, self.options.logit_scale, order
