"""What the language models' adapters share: outputs through the linear head that was found, or logits; finding it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import evolve
from torch import Tensor, nn

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_hf.batch_fields import check_targets
from curvkit_hf.checked_inputs import check_inputs
from curvkit_hf.inner_model import call_for_logits, inner_model
from curvkit_hf.linear_head import find_head, is_hooked, outputs_at_head
from curvkit_hf.unusable import refuse_unusable

__all__ = ["bind_head", "language_outputs"]

Loss = TypeVar("Loss", bound=TokenCrossEntropy)


def language_outputs(
    model: nn.Module, inputs: Mapping[str, Any], targets: Tensor, loss: TokenCrossEntropy, *, head: str | None
) -> Outputs:
    """(logits,) (B, T, V), or hidden states (B, T, D), the weight (V, D) and the bias of the head named `head`.

    Logits also for as long as hooks sit on the head.
    """
    check_inputs(model, inputs)
    if head is None or is_hooked(model, head):
        y: Outputs = (call_for_logits(model, inputs),)
    else:
        y = outputs_at_head(model, inputs, head)
    classes = y[0].shape[-1] if len(y) == 1 else y[1].shape[0]
    check_targets(targets, classes, loss.ignore_index, type(loss).__name__)
    return y


def bind_head(loss: Loss, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Loss, tuple[str, ...]]:
    """Give the loss the model's head, found and verified on `inputs`; a note says why there is none.

    Raises
    ------
    ValueError
        If the model's curvature cannot be had.
    """
    refuse_unusable(model)
    check_inputs(model, inputs)
    head, reason = find_head(model, inputs)
    notes = () if head is not None else (f"logits are computed and held, since no linear head is used: {reason}",)
    config = getattr(inner_model(model), "config", None)
    if getattr(config, "output_router_logits", False):
        notes += ("the router's load-balancing term of the model's own loss is left out: the loss is cross-entropy",)
    if head is None:
        return evolve(loss, head=None), notes
    return evolve(loss, head=head.path, softcap=head.softcap, logit_scale=head.logit_scale), notes
