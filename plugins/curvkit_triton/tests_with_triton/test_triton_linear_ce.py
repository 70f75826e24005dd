"""The Triton kernels of a linear head's cross-entropy, in the interpreter, against the reference in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor

import curvkit_triton.linear_ce as module
from curvkit_core.kernels import LinearCeOptions, chunked_linear_ce, linear_ce
from curvkit_triton.linear_ce import launch_options, matmul_precision, triton_linear_ce

EPS = torch.finfo(torch.float32).eps
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SWEEPS = ("loss", "gradient", "slopes", "gauss-newton", "hessian")
SHAPES = {  # (N, V, D); blocks are (32, 64, 16) or (64 or 32, 128 or 64, 32)
    "aligned": (64, 128, 32),
    "odd": (5, 37, 7),
    "one row": (1, 40, 9),
    "one word": (4, 1, 3),
    "one column": (6, 20, 1),
    "above a block": (67, 131, 35),
}


@frozen(eq=False)
class Head:
    """Inputs, targets, k = 2 directions, row weights and options."""

    y: tuple[Tensor | None, ...]
    targets: Tensor
    d: tuple[Tensor | None, ...]
    c: Tensor
    options: LinearCeOptions

    def values(self, kernel: Any, sweep: str) -> tuple[Tensor, ...]:
        """What a kernel gives."""
        wanted = (True, True, self.y[2] is not None)
        head = (self.y, self.targets, self.options)
        if sweep == "loss":
            return (kernel(*head),)
        if sweep == "gradient":
            return kernel.gradient(*head, self.c, wanted)
        if sweep == "slopes":
            return (kernel.slopes(*head, tuple(t if t is None else t[0] for t in self.d), None),)
        return kernel.product(*head, self.c, self.d, wanted, gauss_newton=sweep == "gauss-newton")

    def to(self, dtype: torch.dtype) -> Head:
        """The same numbers in another dtype, the row weights too where it is wide."""
        cast = lambda ts: tuple(None if t is None else t.to(dtype) for t in ts)  # noqa: E731
        return Head(cast(self.y), self.targets, cast(self.d), self.c.to(dtype), self.options)


def drawn(shape: tuple[int, int, int], dtype: torch.dtype, *, bias: bool = True, **options: Any) -> Head:
    """Gaussian inputs; every fourth row is ignored, and holds poison."""
    rows, words, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    normal = lambda *s: torch.randn(*s, generator=generator).to(dtype)  # noqa: E731
    h, W, b = normal(rows, width), normal(words, width), normal(words)
    d = (normal(2, rows, width), normal(2, words, width), normal(2, words) if bias else None)
    targets = torch.randint(words, (rows,), generator=generator)
    targets[1::4] = -100
    h[1::4] = float("nan")
    if options.pop("weighted", False):
        options["class_weights"] = torch.rand(words, generator=generator) + 0.2
    c = torch.rand(rows, generator=generator)
    return Head((h, W, b if bias else None), targets, d, c, LinearCeOptions(**options))


def slack(found: tuple[Tensor, ...], head: Head, sweep: str) -> float:
    """The largest of |kernel - truth| - |eager - truth| - sqrt(n) eps32 scale, over the largest truth.

    n: terms of the longest sum. Scale: the largest entry; 4 of them, because a sum's terms are larger than a sum.
    In 16 bits the tile's derivative has two terms of 8 bits, cut off in the interpreter where a GPU rounds: 2^-14.
    """
    truths = head.to(torch.float64).values(chunked_linear_ce, sweep)
    eagers = head.values(chunked_linear_ce, sweep)
    h, W, _ = head.y
    n = h.shape[0] + sum(W.shape)
    worst = -1.0
    for got, eager, truth in zip(found, eagers, truths, strict=True):
        assert got.dtype == eager.dtype
        assert got.shape == eager.shape
        scale = float(truth.abs().max())
        allowed = (eager.double() - truth).abs() + 4 * n**0.5 * EPS * scale
        if h.dtype != torch.float32:
            allowed = allowed + 2.0**-14 * scale
        worst = max(worst, float(((got.double() - truth).abs() - allowed).max()) / (scale + 1e-30))
    return worst


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sweeps_are_as_exact_as_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, exact_bfloat16_dots: None
) -> None:
    """All five, elementwise, and one that is wrong by 2 % is seen. Dots are in the dtype's own operands."""
    head = drawn(shape, dtype)
    for sweep in SWEEPS:
        found = head.values(triton_linear_ce, sweep)
        assert slack(found, head, sweep) <= 0, sweep
        if shape[1] > 1:
            assert slack(tuple(1.02 * t for t in found), head, sweep) > 0, sweep


ALL = list(itertools.product([0.0, 0.3], [False, True], [False, True], [None, 1.5], [1.0, -0.6]))
# half of them, in which any four of the five still take all their values together: the interpreter is slow
CHOICES = [choice for number, choice in enumerate(ALL) if number.bit_count() % 2 == 0]


@pytest.mark.parametrize(("smoothing", "weighted", "bias", "softcap", "scale"), CHOICES)
def test_options_crossed(smoothing: float, weighted: bool, bias: bool, softcap: float | None, scale: float) -> None:
    more = {"label_smoothing": smoothing, "weighted": weighted, "softcap": softcap, "logit_scale": scale}
    head = drawn((6, 70, 5), torch.float32, bias=bias, **more)
    for sweep in SWEEPS:
        assert slack(head.values(triton_linear_ce, sweep), head, sweep) <= 0, sweep


@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3))[1:], ids=str)
def test_parts_of_a_direction_and_parts_that_are_wanted(given: tuple[bool, bool, bool]) -> None:
    """None is zero, and what is not wanted is not there; with the cap that makes the Hessian's every term appear."""
    head = drawn((6, 70, 5), torch.float32, softcap=2.0)
    d = tuple(t if there else None for t, there in zip(head.d, given, strict=True))
    zeros = tuple(t if there else torch.zeros_like(t) for t, there in zip(head.d, given, strict=True))
    for newton in (True, False):
        call = lambda k, along, w, newton=newton: k.product(  # noqa: E731
            head.y, head.targets, head.options, None, along, w, gauss_newton=newton
        )
        whole = call(chunked_linear_ce, zeros, (True, True, True))
        every = call(triton_linear_ce, d, (True, True, True))
        for got, want in zip(every, whole, strict=True):
            assert (got - want).abs().max() <= 100 * EPS * (want.abs().max() + whole[1].abs().max())
        some = call(triton_linear_ce, d, given)
        assert all(
            torch.equal(a, b) for a, b in zip(some, [t for t, w in zip(every, given, strict=True) if w], strict=True)
        )


def test_splits_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part or many, of the words and of the rows, as many processors ask for; each twice to the same bits."""
    head = drawn((40, 140, 5), torch.float32, softcap=3.0, label_smoothing=0.1)
    for count in (0, 40):
        monkeypatch.setattr(module, "processors", lambda _, count=count: count)
        for sweep in SWEEPS:
            once, again = (head.values(triton_linear_ce, sweep) for _ in range(2))
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
            assert slack(once, head, sweep) <= 0, (count, sweep)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_large_logits_and_masked_words(sign: float) -> None:
    """Logits of 1e4, a vocabulary whose first blocks are masked by a bias of -inf: no NaN, the right answer."""
    head = drawn((6, 300, 8), torch.float32)
    h, W, b = head.y
    assert b is not None
    b[:200] = -float("inf")
    head.targets.clamp_(max=299)
    head.targets[head.targets >= 0] = 200 + head.targets[head.targets >= 0] % 100
    large = Head((sign * 1e3 * h, W, b), head.targets, head.d, head.c, head.options)
    for sweep in SWEEPS:
        found = large.values(triton_linear_ce, sweep)
        want = large.to(torch.float64).values(chunked_linear_ce, sweep)
        for got, truth in zip(found, want, strict=True):
            assert got.isfinite().all()
            # logits of 1e4 are off by 1e4 eps32 D, 1e-2, and so are the probabilities, relatively
            assert (got.double() - truth).abs().max() <= 0.02 * truth.abs().max() + 1e-30, sweep  # below: underflow


def test_all_rows_ignored_give_zeros() -> None:
    head = drawn((5, 37, 7), torch.float32)
    head.targets[:] = -100
    for sweep in SWEEPS:
        found, want = (head.values(k, sweep) for k in (triton_linear_ce, chunked_linear_ce))
        for got, like in zip(found, want, strict=True):
            assert got.shape == like.shape
            assert not got.any()


def test_strided_inputs_and_mixed_dtypes() -> None:
    """Columns apart, lines apart, a bfloat16 head along float32 directions."""
    head = drawn((6, 40, 8), torch.float32)
    h, W, b = head.y
    strided = Head((h.mT.contiguous().mT, torch.cat([W, W], 1)[:, :8], b), head.targets, head.d, head.c, head.options)
    mixed = Head(tuple(t.to(torch.bfloat16) for t in head.y), head.targets, head.d, head.c, head.options)
    for sweep in SWEEPS:
        assert slack(strided.values(triton_linear_ce, sweep), strided, sweep) <= 0
        assert slack(mixed.values(triton_linear_ce, sweep), mixed, sweep) <= 0


def test_it_is_differentiated_twice_as_the_reference_is() -> None:
    """Through core's calculus: gradient, Hessian product, and forward over forward, which is the reference's."""
    head = drawn((4, 21, 5), torch.float32, softcap=2.0)
    y = [t.nan_to_num() for t in head.y]
    d = [t[0] for t in head.d]

    def second(kernel: Any) -> tuple[Tensor, ...]:
        loss = lambda *at: linear_ce(*at, head.targets, softcap=2.0, kernel=kernel)  # noqa: E731
        gradient = torch.func.grad(loss, argnums=(0, 1, 2))
        along = lambda *at: torch.func.jvp(loss, at, tuple(d))[1]  # noqa: E731
        return *torch.func.jvp(gradient, tuple(y), tuple(d))[1], torch.func.jvp(along, tuple(y), tuple(d))[1]

    for got, want in zip(second(triton_linear_ce), second(chunked_linear_ce), strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_what_is_not_taken_is_refused() -> None:
    head = drawn((4, 9, 5), torch.float64)
    with pytest.raises(TypeError, match="got hidden of dtype float64: expected float16, bfloat16, float32. Use core"):
        head.values(triton_linear_ce, "loss")
    head = drawn((4, 9, 5), torch.float32)
    h, W, b = head.y
    with pytest.raises(ValueError, match="weight on meta"):
        triton_linear_ce((h, W.to("meta"), b), head.targets, head.options)


def test_launch_options_and_precision_follow_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 keeps its digits unless torch is told otherwise; on a GPU, for the interpreter multiplies as is."""
    assert launch_options(torch.float32)["BLOCK_N"] == 32
    assert launch_options(torch.bfloat16)["BLOCK_V"] > launch_options(torch.bfloat16, "hessian")["BLOCK_V"]
    monkeypatch.setattr(module, "is_interpreted", lambda: False)
    assert matmul_precision() == "tf32x3"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert matmul_precision() == "tf32"
