"""The same problem told otherwise: other cuts and orders, a loss times c, an untied twin, rows that do not count."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from curvkit_core.problem import Problem
from curvkit_core.testing.tiny_problems import IGNORED, TinyProblem, TwiceUsed

__all__ = ["ScaledLoss", "retold", "singles", "untied_twin", "with_ignored_rows"]


def retold(problem: Problem, **changes: Any) -> Problem:
    """The problem again, unchecked, with other arguments of :class:`curvkit_core.Problem`."""
    told: dict[str, Any] = {
        "model": problem.model,
        "batches": problem.batches,
        "loss": problem.loss,
        "params": list(problem.parameters.names),
        "weighting": problem.weighting,
        "mode": problem.mode,
        "microbatch_size": problem.microbatch_size,
        "num_batches": problem.num_batches,
        "backend": problem.backend,
        "kernels": problem.kernels,
        "preflight": "off",
        "forward_context": problem.forward_context,
    }
    return Problem(**{**told, **changes})


def singles(problem: Problem) -> list[Any]:
    """All data in batches of one row each."""
    return [piece.batch for piece in retold(problem, microbatch_size=1).pieces()]


class ScaledLoss:
    """A loss times c. Its sampled losses are times sqrt(c): a likelihood to the power c has c times the curvature."""

    def __init__(self, base: Any, factor: float) -> None:
        self.base, self.factor = base, factor

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.base.outputs(model, batch)
        return found

    def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return torch.as_tensor(self.factor * self.base.loss_sum(y, batch))

    def num_units(self, batch: Any) -> float | Tensor:
        count: float | Tensor = self.base.num_units(batch)
        return count

    def unit_losses(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return torch.as_tensor(self.factor * self.base.unit_losses(y, batch))

    def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.factor * part for part in self.base.ggn(y, batch, dy))

    def sample_targets(self, y: tuple[Tensor, ...], batch: Any, uniforms: Any) -> Any:
        return self.base.sample_targets(y, batch, uniforms)

    def sampled_losses(self, y: tuple[Tensor, ...], batch: Any, targets: Any) -> Tensor:
        return torch.as_tensor(self.factor**0.5 * self.base.sampled_losses(y, batch, targets))


def untied_twin(tiny: TinyProblem) -> tuple[TinyProblem, Tensor]:
    """The tiny ``mlp`` with a layer of its own for each use, and E of ones and zeros, (n untied, n tied)."""
    twin = TwiceUsed(tied=False).to(next(tiny.model.parameters()).dtype)
    state = tiny.model.state_dict()
    twin.load_state_dict(state)  # the shared layer stands there under both names
    origin = {f"again.{part}": f"middle.{part}" for part in ("weight", "bias")}
    tied = tiny.problem().parameters
    place = {entry.name: entry.place for entry in tied.entries}
    untied = evolve(tiny, model=twin)
    parameters = untied.problem().parameters
    E = torch.zeros(parameters.n, tied.n, dtype=parameters.dtype)
    for entry in parameters.entries:
        E[entry.place, place[origin.get(entry.name, entry.name)]] = torch.eye(entry.numel, dtype=parameters.dtype)
    return untied, E


def with_ignored_rows(tiny: TinyProblem) -> TinyProblem:
    """Rows of large inputs whose targets are ignored, at the front, in the middle and at the end."""
    noise = 10 * torch.arange(1.0, 10.0, dtype=tiny.inputs.dtype).view(3, 3)
    ignored = torch.full((1,), IGNORED)
    inputs = [noise[:1], tiny.inputs[:4], noise[1:2], tiny.inputs[4:], noise[2:]]
    targets = [ignored, tiny.targets[:4], ignored, tiny.targets[4:], ignored]
    return evolve(tiny, inputs=torch.cat(inputs), targets=torch.cat(targets))
