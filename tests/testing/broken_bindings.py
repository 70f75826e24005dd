"""Loss adapters that bind to their model, right until they are bound, with the check that must name what is wrong."""

from __future__ import annotations

from typing import Any, Self

import torch
from attrs import evolve, frozen
from testing import broken_losses
from torch import Tensor, nn

from curvkit_core import CrossEntropyLoss, LossAdapterSpec
from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs


@frozen(eq=False, kw_only=True)
class Sound(TokenCrossEntropy):
    """From logits; bound, from the last layer's inputs, weight and bias."""

    bound: bool = False

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        if not self.bound:
            return (model(batch[0]),)
        return (model[:-1](batch[0]), model[-1].weight, model[-1].bias)

    def targets(self, batch: Any) -> Tensor:
        return batch[1]

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        return evolve(self, bound=True), ()


class ForgetsTheBias(Sound):
    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        return super().outputs(model, batch)[:2]


class BoundMean(Sound):
    def loss_sum(self, y: Outputs, batch: Any) -> Tensor:
        total = super().loss_sum(y, batch)
        return total / max(float(self.num_units(batch)), 1.0) if self.bound else total


class BoundCountsAll(Sound):
    def num_units(self, batch: Any) -> Any:
        return batch[1].numel() if self.bound else super().num_units(batch)


class BlockByBlock(Sound):
    """Leaves out how hidden states, weight and bias curve together: symmetric, positive, right in each alone."""

    def ggn(self, y: Outputs, batch: Any, dy: Outputs) -> Outputs:
        alone = [tuple(d if i == place else torch.zeros_like(d) for i, d in enumerate(dy)) for place in range(len(dy))]
        blocks = super()  # the comprehension below has a frame of its own
        return tuple(blocks.ggn(y, batch, part)[place] for place, part in enumerate(alone))


class BecomesAnother(Sound):
    def bind(self, model: nn.Module, batch: Any) -> Any:
        return CrossEntropyLoss(), ()


class MarksTheModel(Sound):
    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        model.register_buffer("seen", torch.ones(1))
        return super().bind(model, batch)


def spec(cls: Any) -> LossAdapterSpec:
    """The spec of a loss that binds."""
    return LossAdapterSpec(name="local/broken", summary="Broken on purpose", factory=cls, tags=broken_losses.TAGS)


BROKEN: dict[str, tuple[str, LossAdapterSpec]] = {
    "bound, it forgets the bias": ("loss-binding", spec(ForgetsTheBias)),
    "bound, a mean instead of a sum": ("loss-sums-add-up", spec(BoundMean)),
    "bound, it counts ignored targets": ("loss-ignored-content", spec(BoundCountsAll)),
    "bound, its curvature is block by block": ("loss-binding", spec(BlockByBlock)),
    "bound, it is of another class": ("loss-binding", spec(BecomesAnother)),
    "its bind marks the model": ("loss-leaves-all-as-it-was", spec(MarksTheModel)),
}
SOUND = {"one that binds": spec(Sound)}
