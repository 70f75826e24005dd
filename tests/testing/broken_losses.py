"""Loss adapters with one defect each, and the check that must name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import CrossEntropyLoss, LossAdapterSpec
from curvkit_core.testing import Case


@frozen(kw_only=True)
class Options:
    """Of a cross-entropy.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    """

    ignore_index: int = -100


class Sound(CrossEntropyLoss):
    """Core's, which is not broken."""


class MeanLoss(Sound):
    def loss_sum(self, y: Any, batch: Any) -> Tensor:
        return super().loss_sum(y, batch) / max(float(self.num_units(batch)), 1.0)


class CountsAll(Sound):
    def num_units(self, batch: Any) -> Any:
        return batch[1].numel()


class CountsOnce(Sound):
    def num_units(self, batch: Any) -> Any:
        return 1


class Detached(Sound):
    def outputs(self, model: nn.Module, batch: Any) -> Any:
        return tuple(part.detach() for part in super().outputs(model, batch))


class IgnoresIgnoreIndex(Sound):
    def loss_sum(self, y: Any, batch: Any) -> Tensor:
        kept = batch[1].clamp_min(0)
        return functional.cross_entropy(y[0], kept, reduction="sum")


class CurvatureOff(Sound):
    def ggn(self, y: Any, batch: Any, dy: Any) -> Any:
        return tuple(1.001 * part for part in super().ggn(y, batch, dy))


class CurvatureOfIgnored(Sound):
    def ggn(self, y: Any, batch: Any, dy: Any) -> Any:
        return super().ggn(y, (batch[0], batch[1].clamp_min(0)), dy)


class CurvatureNotSymmetric(Sound):
    def ggn(self, y: Any, batch: Any, dy: Any) -> Any:
        (part,) = super().ggn(y, batch, dy)
        return (part + 0.1 * dy[0].roll(1, dims=-1) * torch.arange(3.0, dtype=part.dtype),)


class NoLeadingAxis(Sound):
    def ggn(self, y: Any, batch: Any, dy: Any) -> Any:
        (part,) = super().ggn(y, batch, dy)
        return (part if part.ndim == y[0].ndim else part.mean(0, keepdim=True).expand_as(part).clone(),)


class UnitsScaled(Sound):
    def unit_losses(self, y: Any, batch: Any) -> Tensor:
        return 2.0 * super().unit_losses(y, batch)


class SamplesTheTarget(Sound):
    """Draws the given targets, not the model's."""

    def sample_targets(self, y: Any, batch: Any, uniforms: Any) -> Any:
        drawn = super().sample_targets(y, batch, uniforms)
        return torch.zeros_like(drawn)


class SampledUnscaled(Sound):
    def sampled_losses(self, y: Any, batch: Any, targets: Any) -> Tensor:
        return 2.0 * super().sampled_losses(y, batch, targets)


class MovesBatchNorm(Sound):
    """Puts the model into train mode and leaves it there."""

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        model.train()
        return super().outputs(model, batch)


class LeavesSecondOrder(Sound):
    @contextlib.contextmanager
    def second_order(self, model: nn.Module) -> Iterator[None]:
        model.register_parameter("eager", nn.Parameter(torch.zeros(1)))
        yield  # an exception inside passes by what follows
        del model.eager


class GradientInForward(Sound):
    """Its gradient is a constant of the forward pass: the loss's Hessian is lost in silence."""

    def loss_sum(self, y: Any, batch: Any) -> Tensor:
        leaf = y[0].detach().requires_grad_()
        total = super().loss_sum((leaf,), batch)
        (slope,) = torch.autograd.grad(total, leaf)
        return total.detach() + (slope * (y[0] - y[0].detach())).sum()


class Noisy(Sound):
    def outputs(self, model: nn.Module, batch: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            return tuple(part + 1e-3 * torch.rand(1, dtype=part.dtype) for part in super().outputs(model, batch))


class ForgetsItsKernels(Sound):
    def with_kernels(self, kernels: Any) -> Any:
        return CrossEntropyLoss(ignore_index=self.ignore_index, kernels=kernels)


class NotAnAdapter:
    def loss(self, y: Any, batch: Any) -> Any:
        return y


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 1, -100, 2, 2, 1, 0])
    return [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]


def with_ignored(batch: Any) -> Any:
    inputs, targets = batch
    return torch.cat([7 * inputs[:1], inputs]), torch.cat([torch.full_like(targets[:1], -100), targets])


def truth(model: nn.Module, batch: Any) -> Any:
    inputs, targets = batch
    with torch.no_grad():
        return functional.cross_entropy(model(inputs), targets, reduction="sum"), int((targets != -100).sum())


CASES = [Case(component="local/broken", model=model, batches=batches, with_ignored=with_ignored, truth=truth)]
TAGS = ("classification", "likelihood", "convex", "units")


def spec(cls: Any, *, tags: tuple[str, ...] = TAGS, matches: tuple[str, ...] = ()) -> LossAdapterSpec:
    """The spec of a broken loss."""
    return LossAdapterSpec(
        name="local/broken",
        summary="Broken on purpose",
        factory=lambda config: cls(ignore_index=config.ignore_index) if issubclass(cls, CrossEntropyLoss) else cls(),
        config=Options,
        tags=tags,
        matches=matches,
    )


BROKEN: dict[str, tuple[str, LossAdapterSpec]] = {
    "mean instead of sum": ("loss-sums-add-up", spec(MeanLoss)),
    "counts ignored targets": ("loss-ignored-content", spec(CountsAll)),
    "counts batches": ("loss-sums-add-up", spec(CountsOnce)),
    "detached": ("loss-outputs-are-graph-tensors", spec(Detached)),
    "ignores ignore_index": ("loss-reference", spec(IgnoresIgnoreIndex)),
    "curvature off by 1e-3": ("loss-ggn-is-the-curvature", spec(CurvatureOff)),
    "curvature of ignored targets": ("loss-ggn-is-the-curvature", spec(CurvatureOfIgnored)),
    "curvature not symmetric": ("loss-ggn-is-symmetric-and-positive", spec(CurvatureNotSymmetric)),
    "no leading axis": ("loss-ggn-is-symmetric-and-positive", spec(NoLeadingAxis)),
    "unit losses scaled": ("loss-units", spec(UnitsScaled)),
    "lies about its units": ("loss-units", spec(Sound, tags=("classification",))),
    "draws the given targets": ("loss-sampling", spec(SamplesTheTarget)),
    "sampled losses not scaled": ("loss-sampling", spec(SampledUnscaled)),
    "leaves train mode": ("loss-leaves-all-as-it-was", spec(MovesBatchNorm)),
    "leaves its second-order mode": ("loss-leaves-all-as-it-was", spec(LeavesSecondOrder)),
    "gradient made in the forward pass": ("loss-ggn-is-the-curvature", spec(GradientInForward)),
    "gradient made in the forward pass, to the Hessian": ("loss-second-derivatives", spec(GradientInForward)),
    "noise": ("loss-batch-is-read-only", spec(Noisy)),
    "another class with kernels": ("loss-kernels", spec(ForgetsItsKernels)),
    "matches every module": ("loss-matches", spec(Sound, matches=("*",))),
    "matches no such model": ("loss-matches", spec(Sound, matches=("*ForCausalLM",))),
    "no adapter": ("loss-outputs-are-graph-tensors", spec(NotAnAdapter)),
}
SOUND = {"core's": spec(Sound)}
