r"""The linear head of a language model: found in the model, verified against its own logits, and left out.

The hidden states are what the head is called with. They are had by running the whole model with the head fed no
positions at all, so whatever stands before the head (a scaling, a transform, an adapter) and whatever the wrapper
around the model does is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from curvkit_hf.inner_model import call_for_logits, inner_model, text_config

__all__ = ["LinearHead", "find_head", "is_hooked", "outputs_at_head"]

_WORDS = 8192  # of the vocabulary at a time
_ROUNDINGS = 4.0


@frozen(kw_only=True)
class LinearHead:
    r"""Logits :math:`\kappa\tanh(\sigma(hW^\top + b)/\kappa)` of hidden states h.

    Parameters
    ----------
    path : str
        The module's name in the model.
    softcap : float or None
        kappa; None: no cap.
    logit_scale : float
        sigma.
    """

    path: str
    softcap: float | None
    logit_scale: float


def is_hooked(model: nn.Module, path: str) -> bool:
    """Whether a hook sits on the head that only its own forward would run, on all the positions."""
    head = model.get_submodule(path)
    return any(m._forward_hooks or (m is not head and m._forward_pre_hooks) for m in head.modules())


def outputs_at_head(model: nn.Module, inputs: Mapping[str, Any], path: str) -> tuple[Tensor, ...]:
    """Hidden states, and the head's weight and bias as they are in this forward; the logits are not computed."""
    head = model.get_submodule(path)
    with _head_inputs(head, skip=True) as seen:
        call_for_logits(model, inputs)
    weight, bias = _weight_and_bias(model, head)
    hidden = seen[0].to(weight.device)
    return (hidden, weight) if bias is None else (hidden, weight, bias)


def find_head(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[LinearHead | None, str]:
    """Look for the head and hold it against the model's own logits on `inputs`.

    Returns
    -------
    head : LinearHead or None
    reason : str
        Why there is none.
    """
    module = _output_embeddings(model)
    path = next((name for name, other in model.named_modules() if other is module), None) if module else None
    if module is None or path is None:
        return None, "get_output_embeddings() gives no module of the model"
    with _head_inputs(module, skip=False) as seen:
        logits = call_for_logits(model, inputs)
    if len(seen) != 1:
        return None, f"{path!r} is called {len(seen)} times in a forward, not once"
    try:
        weight, bias = _weight_and_bias(model, module)
    except TypeError as error:
        return None, str(error)
    config = text_config(model)
    head = LinearHead(path=path, softcap=_softcap(config), logit_scale=_logit_scale(config))
    reason = _difference(head, seen[0], weight, bias, logits)
    if reason:
        return None, reason
    try:
        again = outputs_at_head(model, inputs, path)[0]
    except Exception as error:  # noqa: BLE001 - a forward that cannot go on from no positions may raise anything
        return None, f"the model does not run with no positions at its head ({type(error).__name__}: {error})"
    if again.shape != logits.shape[:-1] + weight.shape[1:]:
        return None, f"hidden states have shape {tuple(again.shape)}, logits {tuple(logits.shape)}"
    return head, ""


@contextmanager
def _head_inputs(head: nn.Module, *, skip: bool) -> Iterator[list[Tensor]]:
    """Record what `head` is called with; with `skip` it gets the first 0 of the positions instead."""
    seen: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0]
        seen.append(hidden)
        return (hidden[..., :0, :], *args[1:]) if skip else None

    # a hook of ours comes after the user's own, so that it sees what they make of the hidden states
    handle = head.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    find: Callable[[], Any] | None = getattr(inner_model(model), "get_output_embeddings", None)
    found = find() if find is not None else None
    return found if isinstance(found, nn.Module) else None


def _weight_and_bias(model: nn.Module, head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """What the head multiplies with and adds, as graph tensors at the values that are in the model now."""
    weight, bias = _linear_map(head)
    more = getattr(inner_model(model), "final_logits_bias", None)  # BART's, a buffer outside its head
    if isinstance(more, Tensor):
        bias = more.reshape(-1) if bias is None else bias + more.reshape(-1)
    return weight, bias


def _linear_map(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, of PEFT's trained copy of one, or of one with low-rank adapters.

    Only where they are seen to be just that: what equals them at the values of the moment, as DoRA does before its
    first step, has other derivatives.
    """
    copies = getattr(head, "modules_to_save", None)
    if isinstance(copies, nn.ModuleDict):
        active = [name for name in head.active_adapters if name in copies] if not head.disable_adapters else []
        return _linear_map(copies[active[0]] if active else head.original_module)
    base = getattr(head, "base_layer", None)
    if isinstance(base, nn.Module):
        weight, bias = _linear_map(base)
        if head.disable_adapters or head.merged:
            return weight, bias
        for name in head.active_adapters:
            if name in _factors(head, name):
                weight = weight + head.scaling[name] * (head.lora_B[name].weight @ head.lora_A[name].weight)
        return weight, bias
    if type(head).forward is nn.Linear.forward:
        return head.weight, head.bias
    msg = f"the head is a {type(head).__name__}, not a linear layer"
    raise TypeError(msg)


def _factors(layer: Any, name: str) -> Any:
    """The first factors of a layer's low-rank adapters, where the one called `name` adds their product and no more."""
    factors = getattr(layer, "lora_A", None)
    variant = getattr(layer, "lora_variant", {}).get(name)
    problem = ""
    if factors is None:
        problem = f"a {type(layer).__module__}.{type(layer).__name__}"
    elif variant is not None or getattr(layer, "use_dora", {}).get(name):
        problem = "DoRA" if variant is None else type(variant).__name__
    elif name in layer.lora_B and layer.lora_B[name].bias is not None:
        problem = "one with a bias"
    if problem:
        msg = f"the head's adapter {name!r} is {problem}, not a product of two factors that is added to the weight"
        raise TypeError(msg)
    return factors


def _softcap(config: Any) -> float | None:
    cap = getattr(config, "final_logit_softcapping", None)
    return float(cap) if cap else None


def _logit_scale(config: Any) -> float:
    """Cohere multiplies its logits, Granite divides them; a factor that is not plain is found out by comparison."""
    scale = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    scale = float(scale) if isinstance(scale, int | float) else 1.0
    return scale / float(divisor) if isinstance(divisor, int | float) and divisor else scale


def _difference(head: LinearHead, hidden: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor) -> str:
    """How the head's logits differ from the model's, in words; empty where they are the same to rounding."""
    h = hidden.to(weight.device, torch.float64)
    if weight.ndim != 2 or h.shape[-1] != weight.shape[1]:
        return f"hidden states of size {h.shape[-1]} do not fit a weight {tuple(weight.shape)}"
    if logits.shape != (*h.shape[:-1], weight.shape[0]):
        expected = (*h.shape[:-1], weight.shape[0])
        return f"its logits would have shape {expected}, the model's have {tuple(logits.shape)}"
    # a dot product in the model's dtype is off by some eps |h| |w|, and the logit is rounded once more
    eps = max(torch.finfo(t.dtype).eps for t in (hidden, weight, logits))
    gap = excess = 0.0
    for low in range(0, weight.shape[0], _WORDS):  # a float64 copy of a large vocabulary's weight would be gigabytes
        W = weight[low : low + _WORDS].to(torch.float64)
        z = h @ W.mT if bias is None else h @ W.mT + bias[low : low + _WORDS].to(torch.float64)
        z = head.logit_scale * z
        size = abs(head.logit_scale) * h.norm(dim=-1, keepdim=True) * W.norm(dim=1) + z.abs()
        z = z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)
        off = (z - logits[..., low : low + _WORDS].to(z)).abs()
        gap = max(gap, float(off.max()))
        excess = max(excess, float((off - _ROUNDINGS * eps * size).max()))
    return f"its logits differ from the model's by up to {gap:.1e}, which is more than rounding" if excess > 0.0 else ""
