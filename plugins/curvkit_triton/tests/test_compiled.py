"""The compiled twins: their mathematics with no compiler, the compiler itself once, and what happens where it fails."""

from __future__ import annotations

import inspect
import itertools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from curvkit_core.kernels import LinearCeOptions, ce_hvp, chunked_linear_ce
from curvkit_triton.compiled_ce_hvp import CompiledCeHvp
from curvkit_triton.compiled_linear_ce import CompiledLinearCe
from curvkit_triton.fallback import Fallback

F64 = torch.float64
SWEEPS = ("loss", "gradient", "slopes", "gauss-newton", "hessian")
CHOICES = list(itertools.product([0.0, 0.3], [False, True], [False, True], [None, 1.5], [1.0, -0.6]))

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")


def plain(fn: Any) -> Any:
    """A compiler that compiles nothing."""
    return fn


def broken(fn: Any) -> Any:
    """A compiler that fails at the first call."""

    def call(*args: Any) -> Any:
        failed = torch._dynamo.exc.BackendCompilerFailed
        given = (plain, ValueError("no such machine"), None)
        raise failed(*given[: len(inspect.signature(failed).parameters)])  # torch 2.6 takes two

    return call


def values(
    kernel: Any, sweep: str, *, bias: bool = True, weighted: bool = False, dtype: torch.dtype = F64, **options: Any
) -> tuple[Tensor, ...]:
    """7 rows of 9 words, of which one is ignored and holds poison: a chunk of 4 rows and a rest of 2."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *s: torch.randn(*s, generator=generator, dtype=F64).to(dtype)  # noqa: E731
    y = (normal(7, 3), normal(9, 3), normal(9) if bias else None)
    d = (normal(2, 7, 3), normal(2, 9, 3), normal(2, 9) if bias else None)
    targets, c = torch.randint(9, (7,), generator=generator), normal(7).abs()
    targets[2], y[0][2] = -100, float("nan")
    weights = torch.rand(9, generator=generator, dtype=F64) if weighted else None
    head = (y, targets, LinearCeOptions(class_weights=weights, chunk_bytes=6 * 9 * 8 * 5, **options))
    wanted = (True, True, bias)
    if sweep == "loss":
        return (kernel(*head),)
    if sweep == "gradient":
        return kernel.gradient(*head, c, wanted)
    if sweep == "slopes":
        return (kernel.slopes(*head, tuple(t if t is None else t[0] for t in d), None),)
    return kernel.product(*head, c, d, wanted, gauss_newton=sweep == "gauss-newton")


def agree(found: tuple[Tensor, ...], want: tuple[Tensor, ...], tol: float) -> bool:
    """Equal to rounding, relative to the largest entry of each."""
    return all(
        f.dtype == w.dtype and f.shape == w.shape and bool((f - w).abs().max() <= tol * w.abs().max())
        for f, w in zip(found, want, strict=True)
    )


@pytest.mark.parametrize(("smoothing", "weighted", "bias", "softcap", "scale"), CHOICES)
def test_linear_ce_is_the_references_mathematics(
    smoothing: float, weighted: bool, bias: bool, softcap: float | None, scale: float
) -> None:
    """All sweeps and options crossed, in float64: sums of at most 60 terms, times 100."""
    options = {"label_smoothing": smoothing, "softcap": softcap, "logit_scale": scale}
    kernel = CompiledLinearCe(compiler=plain)
    for sweep in SWEEPS:
        found, want = (values(k, sweep, bias=bias, weighted=weighted, **options) for k in (kernel, chunked_linear_ce))
        assert agree(found, want, 1e-12), sweep
        assert not agree(tuple(1.001 * t for t in found), want, 1e-12), sweep
    assert not kernel.fallback.reason


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (13, 40)])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_ce_hvp_is_the_references_mathematics(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """With an ignored row of poison and a masked word; in the dtype's rounding, for both are summed in float32."""
    torch.manual_seed(0)
    z, u, s = torch.randn(shape).to(dtype), torch.randn(2, *shape).to(dtype), torch.rand(shape[0]) + 0.1
    if shape[0] > 2:
        s[1], z[1], u[:, 1] = 0.0, float("nan"), float("inf")
    if shape[1] > 2:
        z[:, 0] = -float("inf")
    found, want = CompiledCeHvp(compiler=plain)(z, s, u), ce_hvp(z, s, u)
    assert found.dtype == dtype
    eps = max(torch.finfo(dtype).eps, 1e-15)
    assert (found - want).abs().max() <= 4 * eps * (want.abs().max() + 1)
    if shape[1] > 1 and dtype != torch.bfloat16:
        assert (1.01 * found - want).abs().max() > 4 * eps * (want.abs().max() + 1)


@pytest.mark.slow
@needs_compiler
def test_torch_compiles_both() -> None:
    """One sweep of each, really compiled: float32, 1e-5 of the largest entry, and no fallback."""
    torch.manual_seed(0)
    z, u, s = torch.randn(8, 33), torch.randn(8, 33), torch.rand(8)
    small, large = CompiledCeHvp(), CompiledLinearCe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, of its compiler
        assert agree((small(z, s, u),), (ce_hvp(z, s, u),), 1e-5)
        found = values(large, "hessian", dtype=torch.float32, softcap=2.0)
    assert agree(found, values(chunked_linear_ce, "hessian", dtype=torch.float32, softcap=2.0), 1e-5)
    assert (small.fallback.reason, large.fallback.reason) == ("", "")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_linear_ce_says_once_why_the_reference_took_over(sweep: str) -> None:
    """The first call warns and the answer is the reference's, bit for bit; the second is silent."""
    kernel = CompiledLinearCe(compiler=broken)
    with pytest.warns(RuntimeWarning, match="linear-ce-compile gives way to core/linear-ce .*no such machine"):
        found = values(kernel, sweep)
    want = values(chunked_linear_ce, sweep)
    assert all(torch.equal(f, w) for f, w in zip(found, want, strict=True))
    assert "no such machine" in kernel.fallback.reason
    assert all(torch.equal(f, w) for f, w in zip(values(kernel, sweep), want, strict=True))


def test_ce_hvp_says_once_why_the_reference_took_over() -> None:
    kernel, z = CompiledCeHvp(compiler=broken), torch.randn(3, 4)
    with pytest.warns(RuntimeWarning, match="ce-hvp-compile gives way to core/ce-hvp"):
        found = kernel(z, torch.ones(3), z)
    assert torch.equal(found, ce_hvp(z, torch.ones(3), z))
    assert torch.equal(kernel(z, torch.ones(3), z), found)


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("full"), ValueError("a target is 9")])
def test_errors_that_are_not_the_compilers_are_raised(error: Exception) -> None:
    """Memory that ran out must not start the slower way in silence."""
    fallback = Fallback("a", "b")
    with pytest.raises(type(error)), fallback:
        raise error
    assert not fallback.reason


def test_directions_and_parts_that_are_not_there_cost_nothing() -> None:
    """None is zero: each alone, against the reference."""
    torch.manual_seed(0)
    y, targets = (
        (torch.randn(4, 3, dtype=F64), torch.randn(5, 3, dtype=F64), torch.randn(5, dtype=F64)),
        torch.arange(4),
    )
    product: Callable[..., Any] = lambda k, d, w: k.product(  # noqa: E731
        y, targets, LinearCeOptions(softcap=2.0), None, d, w, gauss_newton=False
    )
    for number in range(3):
        d = tuple(torch.ones(1, *t.shape, dtype=F64) if i == number else None for i, t in enumerate(y))
        wanted = tuple(i == number for i in range(3))
        assert agree(product(CompiledLinearCe(compiler=plain), d, wanted), product(chunked_linear_ce, d, wanted), 1e-12)
    assert product(CompiledLinearCe(compiler=plain), d, (False, False, False)) == ()
