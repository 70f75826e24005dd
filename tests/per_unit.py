"""The gradient of every unit's own loss, by torch.func, at the data's targets or at others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Case, flat_outputs
from torch import Tensor

__all__ = ["gradients_of", "unit_gradients"]


def gradients_of(case: Case, unit_loss: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """The gradients in the parameters of ``unit_loss(z, row, place)``, a unit a row.

    z are the outputs of data row `row` alone, (C,) or at position `place` of a sequence (C,); units whose class targets
    are ignored are left out, and the others are in the order of the flattened targets.
    """
    outputs, flat = flat_outputs(case)
    rows = []
    for row, target in enumerate(case.targets):
        for place in _places(target):

            def loss(theta: Tensor, row: int = row, place: int = place) -> Tensor:
                z = outputs(theta, case.inputs[row][None])[0]
                return unit_loss(z[:, place] if z.ndim == 2 else z, row, place)

            rows.append(torch.func.grad(loss)(flat))
    return torch.stack(rows)


def unit_gradients(case: Case) -> Tensor:
    """At the data's own targets."""

    def loss(z: Tensor, row: int, place: int) -> Tensor:
        target = case.targets[row]
        return case.loss_sum(z[None], target[place][None] if target.ndim and z.shape != target.shape else target[None])

    return gradients_of(case, loss)


def _places(target: Tensor) -> list[int]:
    if target.is_floating_point():
        return [0]
    return [i for i, t in enumerate(target.reshape(-1).tolist()) if t != -100]
