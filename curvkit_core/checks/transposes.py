r"""Identities between products: :math:`\langle Jv, u\rangle = \langle v, J^\top u\rangle`, and
:math:`\langle Au, w\rangle = \langle u, Aw\rangle` for a symmetric operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvkit_core.checks.difference_ladder import norm
from curvkit_core.checks.recorded import Call
from curvkit_core.losses.protocol import Outputs

__all__ = ["asymmetry", "transpose_gap"]

_CHUNK = 1 << 20


def transpose_gap(calls: Sequence[Call]) -> float:
    """The largest gap over all recorded J v and J^T u, relative to the larger of |Jv||u| and |v||J^T u|."""
    forward = [(call.given[0][i], _row(call.got, i)) for call in calls if call.name == "jvp" for i in _rows(call)]
    backward = [(_row(call.given, i), call.got[0][i]) for call in calls if call.name == "vjp" for i in _rows(call)]
    worst = 0.0
    for v, Jv in forward:
        for u, Jtu in backward:
            if [t.shape for t in Jv] == [t.shape for t in u]:
                a = sum(_dot(p, q) for p, q in zip(Jv, u, strict=True))
                worst = max(worst, _relative(a - _dot(v, Jtu), _size(Jv) * _size(u), norm(v) * norm(Jtu)))
    return worst


def asymmetry(u: Tensor, Au: Tensor, w: Tensor, Aw: Tensor) -> float:
    """The gap between <Au, w> and <u, Aw>, relative to the larger of |Au||w| and |u||Aw|."""
    return _relative(_dot(Au, w) - _dot(u, Aw), norm(Au) * norm(w), norm(u) * norm(Aw))


def _rows(call: Call) -> range:
    return range(call.given[0].shape[0])


def _row(tensors: Outputs, i: int) -> Outputs:
    return tuple(t[i] for t in tensors)


def _size(tensors: Outputs) -> float:
    return math.hypot(*(norm(t) for t in tensors))


def _dot(a: Tensor, b: Tensor) -> float:
    a, b = a.reshape(-1), b.reshape(-1)
    parts = zip(a.split(_CHUNK), b.split(_CHUNK), strict=True)
    return float(sum(torch.dot(p.double(), q.double()) for p, q in parts)) if a.numel() else 0.0


def _relative(gap: float, one: float, other: float) -> float:
    """0 where a norm is not finite: other checks speak of that."""
    scale = max(one, other)
    return abs(gap) / scale if 0.0 < scale < float("inf") and gap == gap else 0.0
