"""The problems that ranks and one process both solve: tests/cases.py's models, their data cut in the ranks' order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import CASES, Case
from torch import Tensor

from curvkit_core import (
    CurvatureOperator,
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    Problem,
)

Cut = tuple[tuple[int, ...], ...]

#: Ragged, uneven, and with an empty rank: a batch's size for each batch of each rank; -1 is what is left.
CUTS: dict[int, dict[str, Cut]] = {
    1: {"one": ((3, -1),)},
    2: {"uneven": ((2, 1), (-1,)), "empty": ((3, -1), ())},
    4: {"uneven": ((2, 1), (1,), (-1,), ())},
}

#: Modules that FSDP makes whole one at a time; the others are the root's.
BLOCKS = {
    "tied-mlp": ("first", "norm", "unused", "last"),
    "tied-mlp, frozen": ("first", "norm", "unused", "last"),
    "regression-mlp": ("first", "last"),
    "multilabel-mlp": ("first", "norm", "last"),
    "shared-convnet": ("lift", "conv", "norm", "head"),
    "tiny-transformer": ("qkv", "mix", "norm"),
    "without-logits": ("qkv", "mix", "norm"),
}

OPERATORS: dict[str, Callable[[Problem], CurvatureOperator]] = {
    "hessian": HessianOperator,
    "ggn": GGNOperator,
    "fisher": lambda problem: FisherOperator(problem, num_samples=2, seed=3),
    "empirical-fisher": EmpiricalFisherOperator,
    "covariance": lambda problem: EmpiricalFisherOperator(problem, centered=True),
}

#: Cases and what else is done to the problem.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in CASES},
    "tied-mlp, batch-mean": ("tied-mlp", {"weighting": "batch-mean"}),
    "tiny-transformer, microbatches": ("tiny-transformer", {"microbatch_size": 1}),
    "tied-mlp, some": ("tied-mlp", {"params": ["first.*", "middle.weight"]}),
    "tied-mlp, frozen": ("tied-mlp, frozen", {}),
}


def cuts_of(variant: str, size: int) -> list[str]:
    """On two ranks an empty one is tried with two of the cases."""
    return [cut for cut in CUTS[size] if cut != "empty" or variant in ("tied-mlp", "tiny-transformer")]


def make(name: str) -> Case:
    """The case, the same in every process; a frozen one has a constant weight or bias in two of its blocks."""
    plain, _, frozen = name.partition(", ")
    case = CASES[plain]()
    if frozen:
        case.model.first.weight.requires_grad_(False)
        case.model.last.bias.requires_grad_(False)
    return case


def batches_of(case: Case, cut: Cut) -> list[list[tuple[Tensor, Tensor]]]:
    """Each rank's batches."""
    sizes = [size for rank in cut for size in rank]
    rest = len(case.inputs) - sum(size for size in sizes if size > 0)
    batches = iter(case.batches(tuple(rest if size < 0 else size for size in sizes)))
    return [[next(batches) for _ in rank] for rank in cut]


def operators_of(problem: Problem) -> dict[str, CurvatureOperator]:
    """Those that the problem's loss and weighting allow."""
    names = [n for n in OPERATORS if n != "covariance" or problem.weighting == "unit"]
    return {name: OPERATORS[name](problem) for name in names}


def directions(problem: Problem, rows: int = 2) -> Tensor:
    """What is multiplied: the same vectors on one process, replicas and shards."""
    return problem.space.random("gaussian", 7, 0, rows)


class CountedModel(torch.nn.Module):
    """Six equal blocks between two layers of the root's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(6)))
        self.last = torch.nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for layer in self.layers:
            h = torch.tanh(layer(h))
        return self.last(h)


def counted_model() -> torch.nn.Module:
    """In float64, the same in every process."""
    torch.manual_seed(0)
    return CountedModel().double()
