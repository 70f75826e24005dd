"""s (p*u - p <p,u>) against torch.func, with poison where nothing may be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from curvkit_core.kernels import Kernels, ce_hvp


def dense_product(logits: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    """The Hessian of sum_i s_i logsumexp(z_i), row by row."""
    rows = []
    for z, s, d in zip(logits.double(), weight.double(), u.double(), strict=True):
        H = torch.func.jacfwd(torch.func.grad(lambda t: torch.logsumexp(t, 0)))(z)
        rows.append(s * (H @ d))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 7), (33, 130)])
def test_product_matches_the_dense_hessian(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Rounding of input and output in the dtype; the sums are float32 at least."""
    torch.manual_seed(0)
    logits, u = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    weight = torch.rand(shape[0]) + 0.1
    truth = dense_product(logits, weight, u)
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps if dtype != torch.float64 else 0.0)
    tol = 4 * eps * (float(truth.abs().max()) + 1e-3)
    found = ce_hvp(logits, weight, u)
    assert found.dtype == dtype
    assert (found.double() - truth).abs().max() <= tol
    if shape[1] > 1 and eps < 1e-3:
        assert (1.01 * found.double() - truth).abs().max() > tol


def test_leading_directions_are_products_one_by_one() -> None:
    torch.manual_seed(1)
    logits, u, weight = torch.randn(3, 4), torch.randn(5, 3, 4), torch.tensor([1.0, 0.0, 2.0])
    together = ce_hvp(logits, weight, u)
    assert torch.allclose(together, torch.stack([ce_hvp(logits, weight, d) for d in u]), rtol=0, atol=1e-7)


def test_ignored_rows_may_hold_anything() -> None:
    """inf and NaN in logits and direction of a row of weight 0 change nothing; that row's product is 0."""
    torch.manual_seed(2)
    logits, u, weight = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1.0, 0.0, 1.0])
    clean = ce_hvp(logits, weight, u)
    logits[1], u[1] = float("nan"), float("inf")
    assert torch.equal(ce_hvp(logits, weight, u), clean)
    assert not clean[1].any()


def test_masked_vocabulary_has_probability_zero() -> None:
    """-inf logits anywhere: as the same row without those entries."""
    torch.manual_seed(3)
    logits, u = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    logits[:, [0, 3]] = -float("inf")
    keep = [1, 2, 4, 5]
    found = ce_hvp(logits, torch.ones(2), u)
    assert not found[:, [0, 3]].any()
    assert torch.allclose(found[:, keep], ce_hvp(logits[:, keep], torch.ones(2), u[:, keep]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits_do_not_overflow(scale: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]) * scale
    assert not ce_hvp(logits, torch.ones(1), torch.ones(1, 3) + torch.arange(3.0)).isnan().any()


def test_the_default_kernels_are_the_references() -> None:
    assert Kernels().ce_hvp is ce_hvp
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(
        functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="sum"), logits, create_graph=True
    )
    u = torch.randn(2, 3, dtype=torch.float64)
    (product,) = torch.autograd.grad(slope, logits, u)
    assert torch.allclose(ce_hvp(logits.detach(), torch.ones(2), u), product, rtol=0, atol=1e-15)
