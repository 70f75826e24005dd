"""The right products, in float64, by ``torch.func`` alone: forward over reverse, sharing no path with curvkit."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp
from torch.nn import functional

from matvec.workloads import Workload

__all__ = ["products", "relative_error"]


def products(workload: Workload, v: Tensor) -> dict[str, Tensor]:
    """The Hessian's, the GGN's and the empirical Fisher's product with v, (n,) in float64.

    Not for checkpointed networks: a recomputation does not see the values that ``functional_call`` puts in.
    """
    model = copy.deepcopy(workload.model).double()
    if hasattr(model, "checkpointed"):
        model.checkpointed = False  # the same function
    inputs = workload.inputs.double() if workload.inputs.is_floating_point() else workload.inputs
    targets = workload.targets
    values = {name: p.detach() for name, p in model.named_parameters()}
    pieces = v.double().split([p.numel() for p in values.values()])
    along = {name: piece.view_as(p) for (name, p), piece in zip(values.items(), pieces, strict=True)}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        return functional_call(model, values, (inputs,))

    def flat(values: dict[str, Tensor]) -> Tensor:
        return torch.cat([t.detach().reshape(-1) for t in values.values()])

    def mean_loss(values: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs(values), targets)

    _, hessian = jvp(grad(mean_loss), (values,), (along,))
    found = {"hessian": flat(hessian)}
    del hessian
    with torch.no_grad():
        z, dz = jvp(outputs, (values,), (along,))
        p, rows = z.softmax(-1), torch.arange(len(z))
        ggn = p * dz - p * (p * dz).sum(-1, keepdim=True)
        residual = p.clone()
        residual[rows, targets] -= 1.0
        fisher = residual * (residual * dz).sum(-1, keepdim=True)
    _, transposed = vjp(outputs, values)
    found["ggn"] = flat(transposed(ggn / len(z))[0])
    found["empirical fisher"] = flat(transposed(fisher / len(z))[0])
    return found


def relative_error(product: Tensor, right: Tensor) -> float:
    """Norm of the difference, relative to the right product's."""
    return float((product.double() - right).norm() / right.norm())
