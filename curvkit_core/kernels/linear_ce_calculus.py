r"""The calculus of :class:`curvkit_core.kernels.LinearCe`: its four sweeps as autograd Functions, twice differentiable.

With rows' losses :math:`\ell_i(y)`, y = (hidden, weight, bias), row weights c and directions d, e of y:

======================  ==========================================  ==============================  ==================
Function                value                                       derivative in y along d         in c, d or e
======================  ==========================================  ==============================  ==================
``_Losses(y)``          :math:`\ell_i`                              ``_Slopes(y, d)``
``_Gradient(y, c)``     :math:`\sum_i c_i\nabla\ell_i`              ``_Product(y, c, d)``           ``_Gradient``
``_Slopes(y, d)``       :math:`\langle\nabla\ell_i, d\rangle`       ``_SecondSlopes(y, d, .)``      ``_Slopes``
``_Product(y, c, d)``   :math:`\sum_i c_i\nabla^2\ell_i\,d`         an error                        ``_Product``
``_SecondSlopes``       :math:`\langle d,\nabla^2\ell_i\,e\rangle`  an error                        ``_SecondSlopes``
======================  ==========================================  ==============================  ==================

Transposes: of ``_Slopes`` in d, ``_Gradient`` in c; of ``_SecondSlopes`` in e, ``_Product`` in c; ``_Product`` is its
own in d. So reverse mode, forward mode and every mixture of two of them stay among the five, and so does vmap.

Inputs that need no gradient cost nothing. A Python function's backward cannot tell which of those that do need one were
asked for, and computes all: where the row weights c need a gradient as well, each derivative of the gradient takes 3
matmuls more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.autograd import Function

from curvkit_core.kernels.linear_ce_chunked import HeadInputs, Wanted
from curvkit_core.kernels.linear_ce_options import LinearCeOptions
from curvkit_core.kernels.protocols import LinearCe

__all__ = ["differentiable_losses"]

Grads = tuple[Tensor | None, ...]
_THIRD = (
    "linear_ce has first and second derivatives only, and a third was asked for. "
    "Use torch.nn.functional.cross_entropy on the logits for it."
)


def differentiable_losses(kernel: LinearCe, y: HeadInputs, targets: Tensor, options: LinearCeOptions) -> Tensor:
    """``kernel(y, targets, options)``, differentiable twice in every mode."""
    found: Tensor = _apply(_Losses, _Call(kernel, options), targets, *y)
    return found


def _apply(function: Any, *args: Any) -> Any:
    """``function.apply(*args)``, which torch does not type."""
    return function.apply(*args)


@frozen(eq=False)
class _Call:
    """What is no tensor: whose sweeps, how, and which of the three inputs' derivatives are wanted."""

    kernel: LinearCe
    options: LinearCeOptions
    wanted: Wanted = (False, False, False)

    def wanting(self, flags: Sequence[bool]) -> _Call:
        """The same for these inputs."""
        hidden, weight, bias = flags
        return evolve(self, wanted=(bool(hidden), bool(weight), bool(bias)))

    def spread(self, parts: Sequence[Tensor | None]) -> Grads:
        """One entry an input, None for those that are not wanted."""
        found = iter(parts)
        return tuple(next(found) if want else None for want in self.wanted)


def _gradient(call: _Call, targets: Tensor, c: Tensor, y: Grads) -> Grads:
    """The wanted parts of sum c_i grad l_i, in their places: differentiable."""
    if not any(call.wanted):
        return (None, None, None)
    parts: Grads = _apply(_Gradient, call, targets, c, *y)
    return call.spread(parts)


def _product(call: _Call, targets: Tensor, c: Tensor, y: Grads, d: Grads) -> Grads:
    """The wanted parts of sum c_i hess l_i d, in their places: differentiable in c and d."""
    if not any(call.wanted):
        return (None, None, None)
    if all(t is None for t in d):
        return tuple(_zeros(t) if want and t is not None else None for want, t in zip(call.wanted, y, strict=True))
    along = (None if t is None else t[None] for t in d)
    parts: Grads = _apply(_Product, call, targets, c, *_no_further(y), *along)
    return call.spread([None if p is None else p[0] for p in parts])


def _slopes(call: _Call, targets: Tensor, y: Grads, d: Grads) -> Tensor | None:
    return None if all(t is None for t in d) else _apply(_Slopes, call, targets, *y, *d)


def _second_slopes(call: _Call, targets: Tensor, y: Grads, d: Grads, e: Grads) -> Tensor | None:
    if all(t is None for t in d) or all(t is None for t in e):
        return None
    found: Tensor = _apply(_SecondSlopes, call, targets, *_no_further(y), *d, *e)
    return found


def _no_further(y: Grads) -> Grads:
    return tuple(None if t is None else _apply(_NoFurther, t) for t in y)


def _zeros(t: Tensor) -> Tensor:
    return torch.zeros_like(t)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _sums(one: Grads, other: Grads) -> Grads:
    return tuple(_sum(a, b) for a, b in zip(one, other, strict=True))


def _save(ctx: Any, call: _Call, *tensors: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    ctx.call = call
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _one_by_one(function: type[Function], info: Any, in_dims: Sequence[int | None], args: Sequence[Any]) -> Any:
    """A vmap rule: the function on each entry of the batch, stacked."""
    rows = []
    for i in range(info.batch_size):
        entries = (a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True))
        rows.append(_apply(function, *entries))
    if isinstance(rows[0], tuple):
        stacked = tuple(None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True))
        return stacked, tuple(None if t is None else 0 for t in stacked)
    return torch.stack(rows), 0


class _Losses(Function):
    """The rows' losses: y -> (N,)."""

    @staticmethod
    def forward(call: _Call, targets: Tensor, *y: Tensor | None) -> Tensor:
        return call.kernel(_three(y), targets, call.options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, c: Tensor | None) -> Any:
        targets, *y = ctx.saved_tensors
        if c is None:
            return (None,) * 5
        return None, None, *_gradient(ctx.call.wanting(ctx.needs_input_grad[2:]), targets, c, tuple(y))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        targets, *y = ctx.saved_tensors
        return _slopes(ctx.call, targets, tuple(y), tangents[2:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _one_by_one(_Losses, info, in_dims, args)


class _Gradient(Function):
    """The wanted parts of sum_i c_i grad l_i, linear in c: (c, y) -> a tensor an input that is wanted."""

    @staticmethod
    def forward(call: _Call, targets: Tensor, c: Tensor, *y: Tensor | None) -> Grads:
        return call.kernel.gradient(_three(y), targets, call.options, c, call.wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *parts: Tensor | None) -> Any:
        targets, c, *y = ctx.saved_tensors
        d = ctx.call.spread(parts)
        if all(t is None for t in d):
            return (None,) * 6
        in_c = _slopes(ctx.call, targets, tuple(y), d) if ctx.needs_input_grad[2] else None
        call = ctx.call.wanting(ctx.needs_input_grad[3:])
        return None, None, in_c, *_product(call, targets, c, tuple(y), d)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Grads:
        targets, c, *y = ctx.saved_tensors
        total: Grads = _product(ctx.call, targets, c, tuple(y), tangents[3:])
        if tangents[2] is not None:
            total = _sums(total, _gradient(ctx.call, targets, tangents[2], tuple(y)))
        return tuple(t for t, want in zip(total, ctx.call.wanted, strict=True) if want)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _one_by_one(_Gradient, info, in_dims, args)


class _Slopes(Function):
    """Each row's <grad l_i, d>: (y, d) -> (N,)."""

    @staticmethod
    def forward(call: _Call, targets: Tensor, *y_and_d: Tensor | None) -> Tensor:
        return call.kernel.slopes(_three(y_and_d[:3]), targets, call.options, _three(y_and_d[3:]), None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, c: Tensor | None) -> Any:
        targets, *saved = ctx.saved_tensors
        if c is None:
            return (None,) * 8
        y, d, needs = tuple(saved[:3]), tuple(saved[3:]), ctx.needs_input_grad
        in_y = _product(ctx.call.wanting(needs[2:5]), targets, c, y, d)
        return None, None, *in_y, *_gradient(ctx.call.wanting(needs[5:]), targets, c, y)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        targets, *saved = ctx.saved_tensors
        y, d = tuple(saved[:3]), tuple(saved[3:])
        through_y = _second_slopes(ctx.call, targets, y, d, tangents[2:5])
        return _sum(through_y, _slopes(ctx.call, targets, y, tangents[5:]))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _one_by_one(_Slopes, info, in_dims, args)


class _Product(Function):
    """The wanted parts of sum_i c_i hess l_i d_k, linear in c and d: (c, y, d (k, ...)) -> (k, ...) each."""

    @staticmethod
    def forward(call: _Call, targets: Tensor, c: Tensor, *y_and_d: Tensor | None) -> Grads:
        y, d = _three(y_and_d[:3]), _three(y_and_d[3:])
        return call.kernel.product(y, targets, call.options, c, d, call.wanted, gauss_newton=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *parts: Tensor | None) -> Any:
        targets, c, *saved = ctx.saved_tensors
        y, d, e, needs = tuple(saved[:3]), tuple(saved[3:]), ctx.call.spread(parts), ctx.needs_input_grad
        if all(t is None for t in e):
            return (None,) * 9
        in_c = None
        if needs[2]:
            for k in range(next(t.shape[0] for t in d if t is not None)):
                in_c = _sum(in_c, _second_slopes(ctx.call, targets, y, _row(d, k), _row(e, k)))
        call, in_d = ctx.call.wanting(needs[6:]), (None,) * 3
        if any(call.wanted):
            in_d = call.spread(_apply(_Product, call, targets, c, *_no_further(y), *e))
        return None, None, in_c, None, None, None, *in_d

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Grads:
        targets, c, *saved = ctx.saved_tensors
        y, d = _no_further(tuple(saved[:3])), tuple(saved[3:])
        total: Grads = (None,) * sum(ctx.call.wanted)
        if tangents[2] is not None:
            total = _apply(_Product, ctx.call, targets, tangents[2], *y, *d)
        if any(t is not None for t in tangents[6:]):
            total = _sums(total, _apply(_Product, ctx.call, targets, c, *y, *tangents[6:]))
        return total

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(d is not None for d in in_dims[:6]):
            return _one_by_one(_Product, info, in_dims, args)
        size, merged = info.batch_size, []  # only directions are batched: one softmax for all of them
        for t, dim in zip(args[6:], in_dims[6:], strict=True):
            rows = None if t is None else t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
            merged.append(None if rows is None else rows.flatten(0, 1))
        out = _apply(_Product, *args[:6], *merged)
        return tuple(t.unflatten(0, (size, -1)) for t in out), (0,) * len(out)


class _SecondSlopes(Function):
    """Each row's <d, hess l_i e>, linear in d and in e: (y, d, e) -> (N,)."""

    @staticmethod
    def forward(call: _Call, targets: Tensor, *y_d_e: Tensor | None) -> Tensor:
        y, d, e = _three(y_d_e[:3]), _three(y_d_e[3:6]), _three(y_d_e[6:])
        return call.kernel.slopes(y, targets, call.options, d, e)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, c: Tensor | None) -> Any:
        targets, *saved = ctx.saved_tensors
        if c is None:
            return (None,) * 11
        y, d, e, needs = tuple(saved[:3]), tuple(saved[3:6]), tuple(saved[6:]), ctx.needs_input_grad
        in_d = _product(ctx.call.wanting(needs[5:8]), targets, c, y, e)
        return None, None, None, None, None, *in_d, *_product(ctx.call.wanting(needs[8:]), targets, c, y, d)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        targets, *saved = ctx.saved_tensors
        y, d, e = tuple(saved[:3]), tuple(saved[3:6]), tuple(saved[6:])
        through_d = _second_slopes(ctx.call, targets, y, tangents[5:8], e)
        return _sum(through_d, _second_slopes(ctx.call, targets, y, d, tangents[8:]))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _one_by_one(_SecondSlopes, info, in_dims, args)


class _NoFurther(Function):
    """The identity, of which there is no derivative: it is asked for where a third one would be needed."""

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        raise NotImplementedError(_THIRD)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        raise NotImplementedError(_THIRD)

    @staticmethod
    def vmap(info: Any, in_dims: Any, t: Tensor) -> Any:
        return _apply(_NoFurther, t), in_dims[0]


def _three(tensors: Sequence[Tensor | None]) -> HeadInputs:
    hidden, weight, bias = tensors
    return hidden, weight, bias


def _row(rows: Grads, k: int) -> Grads:
    return tuple(None if t is None else t[k] for t in rows)
