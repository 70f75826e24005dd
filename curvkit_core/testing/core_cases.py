"""The cases of core's own components: small options, models that fit, and truths by another path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core.problem import Problem
from curvkit_core.testing.case import Case
from curvkit_core.testing.dense_truths import dense_empirical_fisher, dense_ggn, dense_hessian
from curvkit_core.testing.tiny_problems import tiny_problem

__all__ = ["CASES", "tiny"]

_BY_UNIT_NUMBER = "sampled targets go by the unit's number in the data's order"


def tiny(name: str = "mlp") -> Problem:
    """A tiny problem, for core/python's factory."""
    return tiny_problem(name).problem()


def _classes() -> list[Any]:
    tiny = tiny_problem("mlp")
    return tiny.batches((4, 5))


def _labels() -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return [(inputs, torch.randint(0, 2, (5, 3), generator=generator).to(torch.float64))]


def _values() -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return [(inputs, torch.randn(5, 3, generator=generator, dtype=torch.float64))]


def _model() -> nn.Module:
    return tiny_problem("mlp").model


class _Headed(nn.Module):
    """A body and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.head = nn.Linear(4, 5)


def _headed() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return _Headed().double()


def _ignored_row(batch: Any) -> Any:
    inputs, targets = batch
    return torch.cat([7 * inputs[:1], inputs]), torch.cat([torch.full_like(targets[:1], -100), targets])


def _cross_entropy(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    inputs, targets = batch
    with torch.no_grad():
        return functional.cross_entropy(model(inputs), targets, reduction="sum"), int((targets != -100).sum())


def _head_cross_entropy(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    assert isinstance(model, _Headed)
    return _cross_entropy(nn.Sequential(model.body, model.head), batch)


def _squared(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    with torch.no_grad():
        return functional.mse_loss(model(batch[0]), batch[1]) * len(batch[0]), len(batch[0])


def _binary(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    with torch.no_grad():
        loss = functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])
        return loss * len(batch[0]), len(batch[0])


def _ggn_without_coupling(problem: Problem) -> Tensor:
    """The dense GGN, with zeros between weights and biases."""
    full = dense_ggn(problem)
    weights = torch.zeros(problem.parameters.n, dtype=torch.bool)
    for entry in problem.parameters.entries:
        weights[entry.place] = entry.name.endswith("weight")
    return torch.where(weights[:, None] == weights, full, 0.0)


_OPTIONS: dict[str, dict[str, Any]] = {
    # defaults are for large operators; the kit's have n = 40
    "core/eigsh": {"k": 3, "ncv": 12, "tol": 1e-8},
    "core/block-lanczos": {"k": 3, "ncv": 12, "tol": 1e-8},
    "core/lobpcg": {"k": 2},
    "core/lanczos-tridiagonal": {"steps": 14},
    "core/nystrom": {"rank": 6, "oversample": 4},
    "core/spectral-density": {"num_probes": 3, "steps": 10},
    "core/spectral-sum": {"num_probes": 3, "steps": 10, "damping": 0.1},
    "core/logdet": {"num_probes": 3, "steps": 10, "damping": 0.1},
    "core/effective-dimension": {"num_probes": 3, "steps": 10},
    "core/condition-number": {"ncv": 10},
    "core/trace": {"num_matvecs": 30},
    "core/diagonal": {"num_matvecs": 30},
    "core/frobenius-norm": {"num_matvecs": 30},
}

CASES: tuple[Case, ...] = (
    Case(component="core/hessian", truth=dense_hessian),
    Case(component="core/ggn", truth=dense_ggn),
    Case(component="core/empirical-fisher", truth=dense_empirical_fisher),
    Case(component="core/fisher", expected_failed={"operator-any-order-and-twice": _BY_UNIT_NUMBER}),
    Case(
        component="core/block-diagonal",
        options={"groups": ["*weight", "*bias"]},
        truth=_ggn_without_coupling,
    ),
    *(Case(component=name, options=options) for name, options in _OPTIONS.items()),
    Case(
        component="core/cross-entropy",
        model=_model,
        batches=_classes,
        with_ignored=_ignored_row,
        truth=_cross_entropy,
    ),
    Case(
        component="core/linear-cross-entropy",
        options={"body": "body", "head": "head"},
        model=_headed,
        batches=_classes,
        with_ignored=_ignored_row,
        truth=_head_cross_entropy,
    ),
    Case(component="core/mse", model=_model, batches=_values, truth=_squared),
    Case(component="core/bce-with-logits", model=_model, batches=_labels, truth=_binary),
    Case(component="core/digits-mlp", options={"hidden": [4], "epochs": 1, "examples": 40, "batch_size": 16}),
    Case(
        component="core/python",
        options={"factory": "curvkit_core.testing.core_cases:tiny"},
        expected_failed={"component-config": "it hands a free table to the user's function, and a table has no hash"},
    ),
)
