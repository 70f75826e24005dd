r"""Core's kernel operations on tensors that are all there, in float64 and by autograd: what a kernel must reproduce.

A truth takes the arguments of its operation's Protocol (:mod:`curvkit_core.kernels`) and is as slow as it is plain.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

from curvkit_core.kernels import HeadInputs, LinearCeOptions

__all__ = ["HeadCase", "SWEEPS", "ce_hvp_truth", "head_case", "sweep_of", "sweep_truth"]

F64 = torch.float64
SWEEPS = ("losses", "gradient", "slopes", "hessian", "gauss-newton")


def ce_hvp_truth(logits: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    r"""The Hessian of :math:`\sum_i s_i \log\sum_c e^{z_{ic}}` times u, by double backward, in float64."""
    product = torch.zeros_like(u, dtype=F64)
    rows = weight != 0
    z = logits.to(F64)[rows].requires_grad_()
    total = (weight.to(F64)[rows] * torch.logsumexp(z, 1)).sum()
    (slope,) = torch.autograd.grad(total, z, create_graph=True)
    flat = u.to(F64).reshape(-1, *logits.shape)
    found = [torch.autograd.grad(slope, z, d[rows], retain_graph=True)[0] for d in flat]
    product.reshape(-1, *logits.shape)[:, rows] = torch.stack(found)
    return product


@frozen(kw_only=True, eq=False)
class HeadCase:
    """A linear head's inputs y, targets, options, the rows' weights c, and two directions d on a leading axis."""

    y: HeadInputs
    targets: Tensor
    options: LinearCeOptions
    weights: Tensor
    along: HeadInputs


def head_case(
    dtype: torch.dtype, device: torch.device | str, *, rows: int = 7, words: int = 9, width: int = 4, bias: bool = True
) -> HeadCase:
    """Gaussian inputs, one row ignored, smoothed labels, class weights, a soft cap and a scale of the logits."""
    generator = torch.Generator().manual_seed(rows + words)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype=dtype, device=device)

    targets = torch.randint(0, words, (rows,), generator=generator).to(device)
    if rows > 1:
        targets[1] = -100
    options = LinearCeOptions(
        label_smoothing=0.2,
        class_weights=(torch.rand(words, generator=generator, dtype=F64) + 0.5).to(device),
        softcap=2.0,
        logit_scale=0.7,
    )
    return HeadCase(
        y=(normal(rows, width), normal(words, width), normal(words) if bias else None),
        targets=targets,
        options=options,
        weights=(torch.rand(rows, generator=generator, dtype=F64) + 0.1).to(dtype=torch.float32, device=device),
        along=(normal(2, rows, width), normal(2, words, width), normal(2, words) if bias else None),
    )


def sweep_of(kernel: Any, sweep: str, case: HeadCase) -> tuple[Tensor, ...]:
    """One sweep of a kernel."""
    wanted = (True, True, case.y[2] is not None)
    head = (case.y, case.targets, case.options)
    if sweep == "losses":
        return (kernel(*head),)
    if sweep == "gradient":
        return _present(kernel.gradient(*head, case.weights, wanted))
    if sweep == "slopes":
        first, second = (tuple(None if d is None else d[i] for d in case.along) for i in range(2))
        return kernel.slopes(*head, first, None), kernel.slopes(*head, first, second)
    gauss_newton = sweep == "gauss-newton"
    return _present(kernel.product(*head, case.weights, case.along, wanted, gauss_newton=gauss_newton))


def sweep_truth(sweep: str, case: HeadCase) -> tuple[Tensor, ...]:
    """The same sweep by autograd on the logits, in float64."""
    leaves = [part.detach().to(F64).requires_grad_() for part in case.y if part is not None]
    along = [part.to(F64) for part in case.along if part is not None]
    losses = _losses(_logits(leaves, case), case)
    if sweep == "losses":
        return (losses.detach(),)
    total = (case.weights.to(F64) * losses).sum()
    slopes = torch.autograd.grad(total, leaves, create_graph=True)
    if sweep == "gradient":
        return tuple(s.detach() for s in slopes)
    if sweep == "slopes":
        return _slopes(losses, leaves, [d[0] for d in along], [d[1] for d in along])
    if sweep == "hessian":
        rows = [torch.autograd.grad(slopes, leaves, [d[i] for d in along], retain_graph=True) for i in range(2)]
    else:
        rows = [_gauss_newton(leaves, [d[i] for d in along], case) for i in range(2)]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _logits(leaves: list[Tensor], case: HeadCase) -> Tensor:
    hidden, weight, *bias = leaves
    a = hidden @ weight.mT
    a = (a + bias[0] if bias else a) * case.options.logit_scale
    cap = case.options.softcap
    return a if cap is None else cap * torch.tanh(a / cap)


def _losses(z: Tensor, case: HeadCase) -> Tensor:
    weights = case.options.class_weights
    return functional.cross_entropy(
        z,
        case.targets,
        weight=None if weights is None else weights.to(F64),
        ignore_index=case.options.ignore_index,
        reduction="none",
        label_smoothing=case.options.label_smoothing,
    )


def _slopes(losses: Tensor, leaves: list[Tensor], d: list[Tensor], e: list[Tensor]) -> tuple[Tensor, Tensor]:
    """<grad l_i, d> and <d, hess l_i e> of each row."""
    first, second = [], []
    for loss in losses:
        slope = torch.autograd.grad(loss, leaves, create_graph=True)
        inner = torch.stack([(s * t).sum() for s, t in zip(slope, d, strict=True)]).sum()
        bent = torch.autograd.grad(inner, leaves, retain_graph=True, materialize_grads=True)
        first.append(inner.detach())
        second.append(torch.stack([(b * t).sum() for b, t in zip(bent, e, strict=True)]).sum())
    return torch.stack(first), torch.stack(second)


def _gauss_newton(leaves: list[Tensor], d: list[Tensor], case: HeadCase) -> tuple[Tensor, ...]:
    """K^T H K d of the weighted sum, K the logits' Jacobian: J d by central functions of autograd."""
    z = _logits(leaves, case)
    w = torch.zeros_like(z, requires_grad=True)
    pulled = torch.autograd.grad(z, leaves, w, create_graph=True)
    inner = torch.stack([(p * t).sum() for p, t in zip(pulled, d, strict=True)]).sum()
    (dz,) = torch.autograd.grad(inner, w)
    leaf = z.detach().requires_grad_()
    total = (case.weights.to(F64) * _losses(leaf, case)).sum()
    (slope,) = torch.autograd.grad(total, leaf, create_graph=True)
    (bent,) = torch.autograd.grad(slope, leaf, dz)
    return torch.autograd.grad(_logits(leaves, case), leaves, bent)


def _present(parts: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(part for part in parts if part is not None)
