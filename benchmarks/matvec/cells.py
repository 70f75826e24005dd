"""Who computes which product how: one row of the table each.

A limit is counted in forwards F, a gradient being 3F: F the forward, 2F the backward; a forward with dual numbers 3F.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from matvec.workloads import Workload

__all__ = ["CELLS", "Cell", "NotThereError"]

Product = Callable[[Tensor], Tensor]


class NotThereError(Exception):
    """The installed version of a tool has no such product."""


@frozen(kw_only=True, eq=False)
class Cell:
    """One way to a product.

    Parameters
    ----------
    name : str
        For --cells.
    tool, matrix, how : str
        Whose, which, by what.
    forwards : int
        What the arithmetic takes, in forwards.
    target : float or None
        The number to reach, as a ratio to a gradient, on the GPT-2 shape.
    peak_target, checkpointed_peak_target : float or None
        The same for the peak of memory, as a ratio to a gradient's.
    held_target : float or None
        The same for what is held between products, as a ratio to the graph of one forward.
    kept : bool
        Whether a graph stays from product to product.
    exact : bool
        Whether it is right up to rounding.
    unit : {"target", "sample"}
        What the empirical Fisher counts; on the GPT-2 shape a sample has 128 targets.
    make : callable
        ``make(workload)`` -> a function that multiplies a vector (n,).
    """

    name: str
    tool: str
    matrix: str
    how: str
    forwards: int
    make: Callable[[Workload], Product]
    target: float | None = None
    peak_target: float | None = None
    held_target: float | None = None
    checkpointed_peak_target: float | None = None
    kept: bool = False
    exact: bool = True
    unit: str = "target"


def _curvkit(operator: str, strategy: str, cache: str) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        import curvkit_core

        data = [(workload.inputs, workload.targets)]
        loss = curvkit_core.CrossEntropyLoss()
        problem = curvkit_core.Problem(workload.model, data, loss, preflight=workload.preflight)
        op = getattr(curvkit_core, operator)(problem, strategy=strategy, cache=cache)
        return op.__matmul__

    return make


def _eigenthings_hessian(method: str) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        from hessian_eigenthings.loss_fns.standard import supervised_loss
        from hessian_eigenthings.operators import HessianOperator

        loss = supervised_loss(workload.criterion)
        model = copy.deepcopy(workload.model)  # finite differences write into the model
        return HessianOperator(model, [(workload.inputs, workload.targets)], loss, method=method).matvec

    return make


def _eigenthings_ggn(method: str | None) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        from hessian_eigenthings.loss_fns.standard import supervised_forward, supervised_loss_of_output
        from hessian_eigenthings.operators import GGNOperator

        options: dict[str, Any] = {}
        if "method" in inspect.signature(GGNOperator).parameters:
            options["method"] = method or "autograd"
        elif method is not None:
            msg = f"GGNOperator has no method={method!r} in this version"
            raise NotThereError(msg)
        data = [(workload.inputs, workload.targets)]
        of_output = supervised_loss_of_output(workload.criterion)
        model = copy.deepcopy(workload.model)
        return GGNOperator(model, data, supervised_forward, of_output, **options).matvec

    return make


def _eigenthings_fisher(workload: Workload) -> Product:
    from hessian_eigenthings.operators import EmpiricalFisherOperator

    model = copy.deepcopy(workload.model)
    return EmpiricalFisherOperator(model, [workload.sample_batch], workload.sample_loss).matvec


def _curvlinops(operator: str) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        import curvlinops

        model = copy.deepcopy(workload.model)
        data = [(workload.inputs, workload.targets)]
        parameters = [p for p in model.parameters() if p.requires_grad]
        build = getattr(curvlinops, operator)
        return build(model, workload.criterion, parameters, data, check_deterministic=False).__matmul__

    return make


def _pyhessian(loader: bool) -> Callable[[Workload], Product]:
    def make(workload: Workload) -> Product:
        from pyhessian import hessian
        from pyhessian.utils import hessian_vector_product

        model = copy.deepcopy(workload.model)
        shapes = [p.shape for p in model.parameters()]
        sizes = [s.numel() for s in shapes]
        batch = (workload.inputs, workload.targets)
        source = {"dataloader": [batch]} if loader else {"data": batch}
        tool = hessian(model, workload.criterion, cuda=False, **source)

        def multiply(v: Tensor) -> Tensor:
            parts = [piece.view(shape) for piece, shape in zip(v.split(sizes), shapes, strict=True)]
            if loader:
                _, product = tool.dataloader_hv_product(parts)
            else:
                product = hessian_vector_product(tool.gradsH, tool.params, parts)
            return torch.cat([t.detach().reshape(-1) for t in product])

        return multiply

    return make


def _cells() -> list[Cell]:
    hessian, ggn, fisher = "hessian", "ggn", "empirical fisher"
    ours = [
        (hessian, "HessianOperator", "kept graph", "reverse", "keep", 6, 2.3),
        (hessian, "HessianOperator", "rebuilt", "reverse", "rebuild", 9, 3.4),
        (ggn, "GGNOperator", "kept graph", "reverse", "keep", 4, 1.5),
        (ggn, "GGNOperator", "lean", "lean", "rebuild", 6, 2.4),
        (ggn, "GGNOperator", "rebuilt, reverse", "reverse", "rebuild", 7, None),
        (fisher, "EmpiricalFisherOperator", "kept graph", "reverse", "keep", 4, 1.5),
        (fisher, "EmpiricalFisherOperator", "lean", "lean", "rebuild", 6, None),
        (fisher, "EmpiricalFisherOperator", "rebuilt, reverse", "reverse", "rebuild", 7, None),
    ]
    cells = []
    for matrix, operator, how, strategy, cache, forwards, target in ours:
        short = "keep" if cache == "keep" else "lean" if strategy == "lean" else "rebuild"
        lean_ggn = (matrix, strategy) == (ggn, "lean")
        cells.append(
            Cell(
                name=f"curvkit-{matrix.split()[-1]}-{short}",
                tool="curvkit",
                matrix=matrix,
                how=how,
                forwards=forwards,
                target=target,
                peak_target=1.1 if lean_ggn else None,
                checkpointed_peak_target=1.8 if lean_ggn else None,
                held_target=2.4 if cache == "keep" else None,
                kept=cache == "keep",
                make=_curvkit(operator, strategy, cache),
            )
        )
    he, cl, pyh = "hessian-eigenthings", "curvlinops", "PyHessian"
    fd = {"how": "finite differences", "exact": False}
    double = {"matrix": hessian, "how": "double backward, rebuilt"}
    cells += [
        Cell(name="he-hessian", tool=he, **double, forwards=9, make=_eigenthings_hessian("autograd")),
        Cell(
            name="he-hessian-fd",
            tool=he,
            matrix=hessian,
            **fd,
            forwards=6,
            make=_eigenthings_hessian("finite_difference"),
        ),
        Cell(name="he-ggn", tool=he, matrix=ggn, how="exact, jvp + vjp", forwards=6, make=_eigenthings_ggn(None)),
        Cell(name="he-ggn-fd", tool=he, matrix=ggn, **fd, forwards=5, make=_eigenthings_ggn("finite_difference")),
        Cell(
            name="he-fisher",
            tool=he,
            matrix=fisher,
            how="gradients of the samples, (B, P)",
            forwards=3,
            make=_eigenthings_fisher,
            unit="sample",
        ),
        Cell(
            name="cl-hessian",
            tool=cl,
            matrix=hessian,
            how="forward over reverse",
            forwards=9,
            make=_curvlinops("HessianLinearOperator"),
        ),
        Cell(name="cl-ggn", tool=cl, matrix=ggn, how="jvp + vjp", forwards=6, make=_curvlinops("GGNLinearOperator")),
        Cell(
            name="cl-fisher", tool=cl, matrix=fisher, how="jvp + vjp", forwards=6, make=_curvlinops("EFLinearOperator")
        ),
        Cell(name="pyh-hessian", tool=pyh, **double, forwards=9, make=_pyhessian(loader=True)),
        Cell(
            name="pyh-hessian-one-batch",
            tool=pyh,
            matrix=hessian,
            how="one batch, kept graph",
            forwards=6,
            kept=True,
            make=_pyhessian(loader=False),
        ),
    ]
    order = [hessian, ggn, fisher]
    return sorted(cells, key=lambda cell: order.index(cell.matrix))  # stable: curvkit first within each


#: name -> cell, by matrix
CELLS: dict[str, Cell] = {cell.name: cell for cell in _cells()}
