"""Small problems in float64 with their dense matrices: what the kit runs operators on, and authors' tests may use.

``quadratic`` (least squares, where Hessian and GGN are one constant matrix), ``logistic`` (convex, one output), and
``mlp`` (softmax classification by a network with a weight used twice, a layer that is never used, and ignored targets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from curvkit_core.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from curvkit_core.problem import Problem
from curvkit_core.testing.dense_truths import dense_empirical_fisher, dense_ggn, dense_hessian

__all__ = ["TINY_PROBLEMS", "TinyProblem", "TwiceUsed", "tiny_problem"]

F64 = torch.float64
IGNORED = -100


class TwiceUsed(nn.Module):
    """3 inputs, 3 classes, 39 parameters: ``middle`` is used twice unless not `tied`, ``unused`` never."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.middle = nn.Linear(3, 3)
        self.again = self.middle if tied else nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.unused = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        found: Tensor = self.last(torch.tanh(self.again(torch.tanh(self.middle(h)))))
        return found


@frozen(kw_only=True, eq=False)
class TinyProblem:
    """A model, its data as one batch, its loss, and the dense truths.

    Parameters
    ----------
    model : torch.nn.Module
        In float64.
    inputs, targets : Tensor
        All data.
    loss : LossAdapter
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Any

    def batches(self, sizes: tuple[int, ...] | None = None) -> list[tuple[Tensor, Tensor]]:
        """The data cut into batches of these sizes; None: one batch."""
        sizes = (len(self.inputs),) if sizes is None else sizes
        return list(zip(self.inputs.split(list(sizes)), self.targets.split(list(sizes)), strict=True))

    def problem(self, sizes: tuple[int, ...] | None = None, **options: Any) -> Problem:
        """The problem over the data cut so, with options of :class:`curvkit_core.Problem`; unchecked by default."""
        return Problem(self.model, self.batches(sizes), self.loss, **{"preflight": "off", **options})

    @property
    def hessian(self) -> Tensor:
        """Dense, by double backward."""
        return dense_hessian(self.problem())

    @property
    def ggn(self) -> Tensor:
        """Dense, by the outputs' Jacobian."""
        return dense_ggn(self.problem())

    @property
    def empirical_fisher(self) -> Tensor:
        """Dense, by the units' gradients."""
        return dense_empirical_fisher(self.problem())


def tiny_problem(name: str = "mlp") -> TinyProblem:
    """Make one of the tiny problems; the global random state is as it was.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in TINY_PROBLEMS:
        msg = f"tiny problem {name!r} is unknown: expected one of {', '.join(TINY_PROBLEMS)}."
        raise ValueError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return TINY_PROBLEMS[name]()


def _quadratic() -> TinyProblem:
    return TinyProblem(
        model=nn.Linear(4, 2).to(F64),
        inputs=torch.randn(9, 4, dtype=F64),
        targets=torch.randn(9, 2, dtype=F64),
        loss=MSELoss(),
    )


def _logistic() -> TinyProblem:
    return TinyProblem(
        model=nn.Linear(5, 1).to(F64),
        inputs=torch.randn(9, 5, dtype=F64),
        targets=torch.randint(0, 2, (9, 1)).to(F64),
        loss=BCEWithLogitsLoss(),
    )


def _mlp() -> TinyProblem:
    targets = torch.randint(0, 3, (9,))
    targets[1] = targets[6] = IGNORED
    return TinyProblem(
        model=TwiceUsed().to(F64),
        inputs=torch.randn(9, 3, dtype=F64),
        targets=targets,
        loss=CrossEntropyLoss(),
    )


TINY_PROBLEMS: dict[str, Callable[[], TinyProblem]] = {"quadratic": _quadratic, "logistic": _logistic, "mlp": _mlp}
