"""The Triton kernel of s (p*u - p <p,u>), in the interpreter, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from curvkit_core.kernels import ce_hvp as reference
from curvkit_triton.ce_hvp import ce_hvp

EPS = torch.finfo(torch.float32).eps
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "aligned": (4, 256),
    "odd": (3, 37),
    "one row": (1, 130),
    "one column": (5, 1),
    "one element": (1, 1),
    "a block": (2, 4096),
    "above a block": (2, 4097),
    "three blocks": (2, 9000),
}


def drawn(rows: int, classes: int, dtype: torch.dtype, k: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, weight and k directions."""
    generator = torch.Generator().manual_seed(rows * classes)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return (3 * normal(rows, classes)).to(dtype), normal(rows).abs() + 0.1, normal(k, rows, classes).to(dtype)


def slack(found: Tensor, z: Tensor, s: Tensor, u: Tensor) -> float:
    """The largest of |kernel - truth| - |eager - truth| - sqrt(V) eps32 scale, which should not be positive.

    Scale: s max |u|, which bounds the product. In bfloat16 the interpreter cuts digits off where a GPU rounds, an ulp
    instead of a half.
    """
    truth = reference(z.double(), s.double(), u.double())
    eager = (reference(z, s, u).double() - truth).abs()
    if u.dtype == torch.bfloat16:
        eager = eager + torch.finfo(torch.bfloat16).eps * truth.abs()
    scale = z.shape[1] ** 0.5 * EPS * s.double()[:, None] * u.double().abs().amax(-1, keepdim=True)
    return float(((found.double() - truth).abs() - eager - scale).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_product_is_as_exact_as_the_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Elementwise, and a product that is wrong by 1 % is seen."""
    z, s, u = drawn(*shape, dtype)
    found = ce_hvp(z, s, u)
    assert found.dtype == dtype
    assert slack(found, z, s, u) <= 0
    if shape[1] > 1:
        assert slack(1.02 * found, z, s, u) > 0


def test_float64_is_summed_in_float64() -> None:
    z, s, u = drawn(3, 5000, torch.float64)
    gap = (ce_hvp(z, s, u) - reference(z, s, u)).abs().max()
    assert gap <= 1e-14  # sums of 5,000 terms below 1, times 45


@pytest.mark.parametrize("in_place", [False, True])
def test_strided_slices_are_read_and_written_where_they_are(in_place: bool) -> None:
    """Shifted slices, as a language model's loss makes them, classes apart, and directions apart: no copy."""
    z = torch.randn(2, 5, 9)[:, :-1].reshape(2, 4, 9)[1]
    base = torch.randn(9, 3, 8)
    u = base.permute(1, 2, 0)[:, ::2]  # (3, 4, 9): strides 8, 2, 24
    s = torch.rand(8)[::2] + 0.1
    want = reference(z, s, u.contiguous())
    before = base.clone()
    out = u if in_place else torch.empty(9, 3, 8).permute(1, 2, 0)[:, 1::2]
    found = ce_hvp(z, s, u, out=out)
    assert found is out
    assert torch.allclose(found, want, rtol=0, atol=10 * EPS)
    kept = base[:, :, 1::2] if in_place else base
    assert torch.equal(kept, before[:, :, 1::2] if in_place else before)


def test_rows_of_weight_zero_are_not_read() -> None:
    """inf and NaN there change nothing, also where the weight is a mask; that row's product is 0."""
    z, _, u = drawn(3, 40, torch.float32)
    s = torch.tensor([True, False, True])
    clean = ce_hvp(z, s, u)
    z[1], u[:, 1] = float("nan"), float("inf")
    assert torch.equal(ce_hvp(z, s, u), clean)
    assert not clean[:, 1].any()
    assert clean[:, 0].any()


@pytest.mark.parametrize("masked", [slice(0, 5000), slice(2000, 9000), slice(1, None, 2), slice(0, 8999)], ids=str)
def test_masked_words_have_probability_zero_wherever_they_are(masked: slice) -> None:
    """A first block of -inf alone, a last one, every second: as the row without them; u there may hold anything."""
    z, s, u = drawn(2, 9000, torch.float32)
    keep = torch.ones(9000, dtype=torch.bool)
    keep[masked] = False
    z[:, masked], u[..., masked] = -float("inf"), float("nan")
    found = ce_hvp(z, s, u)
    assert not found[..., ~keep].any()
    want = reference(z[:, keep].double(), s.double(), u[..., keep].double())
    assert (found[..., keep].double() - want).abs().max() <= 100 * EPS * want.abs().max() + 1e-30


@pytest.mark.parametrize("scale", [1e4, -1e4, torch.finfo(torch.float32).min])
def test_large_and_constant_logits_do_not_overflow(scale: float) -> None:
    """Also a mask of the least finite number, and a constant row."""
    z = torch.stack([torch.arange(6.0) / 6 * scale, torch.full((6,), scale)])
    u = torch.arange(12.0).view(2, 6)
    found, want = ce_hvp(z, torch.ones(2), u), reference(z.double(), torch.ones(2).double(), u.double())
    assert (found.double() - want).abs().max() <= 1e-5  # u is 11, eps 1e-7, times 8


def test_the_same_product_twice_is_bitwise_equal_and_no_rows_give_none() -> None:
    z, s, u = drawn(3, 5000, torch.float32)
    assert torch.equal(ce_hvp(z, s, u), ce_hvp(z, s, u))
    assert ce_hvp(z[:0], s[:0], u[:, :0]).shape == (2, 0, 5000)


def test_what_is_not_taken_is_refused() -> None:
    z, s, u = drawn(3, 8, torch.float32)
    with pytest.raises(ValueError, match=r"u \(2, 3, 7\): expected \(N, V\)"):
        ce_hvp(z, s, u[..., 1:])
    with pytest.raises(TypeError, match="got logits of dtype int64: expected float16, bfloat16, float32, float64"):
        ce_hvp(z.long(), s, u)
    with pytest.raises(ValueError, match="u on meta: expected all on one CPU device"):
        ce_hvp(z, s, u.to("meta"))
    with pytest.raises(ValueError, match="each element in a place of its own"):
        ce_hvp(z, s, u, out=torch.zeros(1, 3, 8).expand(2, 3, 8))
    with pytest.raises(ValueError, match="u's shape"):
        ce_hvp(z, s, u, out=torch.zeros(3, 8))
