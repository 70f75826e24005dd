"""The unembedding of a TransformerLens model: what enters it, what it multiplies with, and whether that is all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

__all__ = ["Head", "find_head"]

_ROWS = 256  # of logits that are compared


@frozen(kw_only=True, eq=False)
class Head:
    r"""Logits are :math:`\kappa\tanh(\sigma(hW_U + b_U)/\kappa)`, h being what enters the unembedding.

    Parameters
    ----------
    softcap : float or None
        kappa.
    logit_scale : float
        sigma.
    """

    softcap: float | None = None
    logit_scale: float = 1.0

    def is_hooked(self, model: nn.Module) -> bool:
        """Whether a hook sits on the unembedding, which only its own forward would run."""
        return is_hooked(unembedding(model))

    def outputs(self, model: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        """Hidden states, weight (V, D) and, where there is one, bias (V,), from a run that leaves the head out."""
        unembed = unembedding(model)
        with _left_out(unembed) as entered:
            run()
        if len(entered) != 1:
            msg = (
                f"the unembedding of the {type(model).__name__} ran {len(entered)} times in a forward, not once: pass "
                "NextTokenLoss(chunked=False)."
            )
            raise RuntimeError(msg)
        weight, bias = weights(unembed)
        return (entered[0], weight) if bias is None else (entered[0], weight, bias)


def unembedding(model: nn.Module) -> Any:
    """The model's ``unembed``."""
    return getattr(model, "unembed", None)


def is_hooked(unembed: nn.Module) -> bool:
    """Whether any module of the unembedding has hooks."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in unembed.modules()
    )


def weights(unembed: Any) -> tuple[Tensor, Tensor | None]:
    """(V, D) and (V,) or None: the parameters' values as they are now, swapped ones included."""
    component = getattr(unembed, "original_component", None)
    if component is not None and not getattr(unembed, "_use_processed_weights", False):
        return component.weight, getattr(component, "bias", None)
    return unembed.W_U.mT, unembed.b_U


def find_head(model: nn.Module, run: Callable[[], Tensor]) -> Head | str:
    """The head, where its logits are the model's own on this run; else why it cannot be used."""
    unembed = unembedding(model)
    if not isinstance(unembed, nn.Module):
        return f"{type(model).__name__} has no module unembed."
    if is_hooked(unembed):
        return "hooks sit on the unembedding."
    try:
        hidden, weight, *bias = Head().outputs(model, run)
    except (AttributeError, RuntimeError) as error:
        return f"the unembedding is not W_U and b_U: {error}"
    logits = run().flatten(0, -2)[:_ROWS]
    rows = hidden.flatten(0, -2)[:_ROWS]
    if logits.shape != (len(rows), len(weight)):
        return f"logits have {logits.shape[-1]} columns where W_U has {len(weight)}."
    plain = rows @ weight.mT + (bias[0] if bias else 0.0)
    least = math.inf
    for scale, cap in product(_scales(model), _caps(model)):
        own = plain * scale
        own = own if cap is None else cap * torch.tanh(own / cap)
        gap = float((own - logits).norm() / logits.norm())
        # one matrix product in two orders of summation: eps a logit, sqrt(D) eps at the most
        if gap <= 4 * math.sqrt(rows.shape[-1]) * torch.finfo(logits.dtype).eps:
            return Head(softcap=cap, logit_scale=scale)
        least = min(least, gap)
    return f"W_U and b_U give logits that differ from the model's by {least:.1e} of their size."


@contextmanager
def _left_out(unembed: nn.Module) -> Iterator[list[Tensor]]:
    """Have the unembedding hand on what enters it, and say what it was."""
    entered: list[Tensor] = []

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        entered.append(hidden)
        return hidden

    own = unembed.__dict__.get("forward")
    unembed.__dict__["forward"] = forward
    try:
        yield entered
    finally:
        if own is None:
            del unembed.__dict__["forward"]
        else:
            unembed.__dict__["forward"] = own


def _caps(model: nn.Module) -> list[float | None]:
    names = ("output_logits_soft_cap", "final_logit_softcapping")
    return [None, *(cap for name in names for cap in _numbers(model, name) if cap > 0.0)]


def _scales(model: nn.Module) -> list[float]:
    given = _numbers(model, "logit_scale")
    inverse = [1.0 / number for number in _numbers(model, "logits_scaling") if number]
    return [1.0, *given, *inverse]


def _numbers(model: nn.Module, name: str) -> list[float]:
    """What the model's configurations, TransformerLens's and transformers', have under a name."""
    configs = (getattr(model, "cfg", None), getattr(getattr(model, "original_model", None), "config", None))
    found = (getattr(config, name, None) for config in configs)
    return list(dict.fromkeys(float(number) for number in found if isinstance(number, int | float)))
