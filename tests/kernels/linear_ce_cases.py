"""Inputs of a linear head's cross-entropy, and the same loss the plain way, on logits that are all there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from curvkit_core.kernels import linear_ce, linear_ce_ggn

F64 = torch.float64
NAMES = ("hidden", "weight", "bias")


@frozen(kw_only=True, eq=False)
class HeadCase:
    """Hidden states (..., D), weight (V, D), bias (V,) or None, targets (...), and options of the loss."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    options: dict[str, Any] = field(factory=dict)

    @property
    def y(self) -> tuple[Tensor, ...]:
        """The inputs that are there."""
        return tuple(t for t in (self.hidden, self.weight, self.bias) if t is not None)

    def loss(self, *y: Tensor, **more: Any) -> Tensor:
        """Ours, at `y`."""
        return linear_ce(*_padded(y), self.targets, **{**self.options, **more})

    def ggn(self, *d: Tensor, **more: Any) -> tuple[Tensor, ...]:
        """Our closed form along `d`."""
        parts = linear_ce_ggn(*_padded(self.y), self.targets, *_padded(d), **{**self.options, **more})
        return tuple(t for t in parts if t is not None)

    def logits(self, *y: Tensor) -> Tensor:
        """(N, V), with the graph."""
        hidden, weight, bias = _padded(y)
        a = hidden.reshape(-1, hidden.shape[-1]) @ weight.mT
        a = (a if bias is None else a + bias) * self.options.get("logit_scale", 1.0)
        cap = self.options.get("softcap")
        return a if cap is None else cap * torch.tanh(a / cap)

    def loss_of_logits(self, z: Tensor, reduction: str = "sum") -> Tensor:
        """torch's."""
        return functional.cross_entropy(
            z,
            self.targets.reshape(-1),
            weight=self.options.get("class_weights"),
            ignore_index=self.options.get("ignore_index", -100),
            label_smoothing=self.options.get("label_smoothing", 0.0),
            reduction=reduction,
        )

    def plain_loss(self, *y: Tensor) -> Tensor:
        """The whole loss, materialised."""
        return self.loss_of_logits(self.logits(*y))

    def directions(self, seed: int, rows: int | None = None) -> tuple[Tensor, ...]:
        """Random ones, shaped as the inputs."""
        generator = torch.Generator().manual_seed(seed)
        lead = () if rows is None else (rows,)
        return tuple(torch.randn(*lead, *t.shape, generator=generator, dtype=F64).to(t.dtype) for t in self.y)


def _padded(y: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    return (*y, *(None,) * (3 - len(y)))


def make_case(
    lead: tuple[int, ...] = (5,),
    *,
    classes: int = 4,
    width: int = 3,
    bias: bool = True,
    ignored: tuple[int, ...] = (1,),
    weighted: bool = False,
    seed: int = 0,
    dtype: torch.dtype = F64,
    **options: Any,
) -> HeadCase:
    """Gaussian inputs; rows with these numbers are ignored. A chunk takes two rows, unless `chunk_bytes` is given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)

    targets = torch.randint(0, classes, lead, generator=generator)
    for row in ignored:
        if row < targets.numel():
            targets.view(-1)[row] = options.get("ignore_index", -100)
    if weighted:
        options["class_weights"] = (torch.rand(classes, generator=generator, dtype=F64) + 0.2).to(dtype)
    options.setdefault("chunk_bytes", 2 * 8 * classes)
    hidden, weight = normal(*lead, width), normal(classes, width)
    return HeadCase(
        hidden=hidden, weight=weight, bias=normal(classes) if bias else None, targets=targets, options=options
    )


def _option_cases() -> dict[str, Callable[[], HeadCase]]:
    cases: dict[str, Callable[[], HeadCase]] = {}
    choices = itertools.product([0.0, 0.3], [False, True], [False, True], [None, 1.5], [1.0, 0.6])
    for number, (smoothing, weighted, bias, softcap, scale) in enumerate(choices):
        lead = [(5,), (2, 3), (2, 1, 2)][number % 3]
        ignored = [(), (1,), (0, 2, 3)][number % 3]
        options: dict[str, Any] = {"label_smoothing": smoothing, "softcap": softcap, "logit_scale": scale}
        words = f"smooth{smoothing:g}-{'weighted' if weighted else 'even'}-{'bias' if bias else 'nobias'}"
        cases[f"{words}-cap{softcap}-scale{scale:g}"] = _maker(lead, ignored, weighted, bias, options)
    return cases


def _maker(
    lead: tuple[int, ...], ignored: tuple[int, ...], weighted: bool, bias: bool, options: dict[str, Any]
) -> Callable[[], HeadCase]:
    return lambda: make_case(lead, ignored=ignored, weighted=weighted, bias=bias, **options)


#: All options crossed; leading shapes and ignored rows take turns. The smallest chunk is one or two rows.
OPTION_CASES = _option_cases()


def with_options(case: HeadCase, **options: Any) -> HeadCase:
    """The same case with other options."""
    return evolve(case, options={**case.options, **options})


class HeadMatmuls(TorchDispatchMode):
    """Counts multiplications in matmuls of `case`'s size, N V D of its rows that are not ignored: `number`."""

    def __init__(self, case: HeadCase) -> None:
        super().__init__()
        rows = int((case.targets != case.options.get("ignore_index", -100)).sum())
        self.unit = rows * case.weight.numel()
        self.multiplications = 0

    @property
    def number(self) -> float:
        """Matmuls of the head's size."""
        return self.multiplications / self.unit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_, torch.ops.aten.addmm):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))
