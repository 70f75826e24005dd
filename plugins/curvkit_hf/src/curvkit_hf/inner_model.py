"""The transformers model inside wrappers, what its configuration says, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["call_for_logits", "context_length", "inner_model", "text_config"]


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and PEFT wrappers, or the model itself."""
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif not hasattr(model, "config") and isinstance(getattr(model, "module", None), nn.Module):
            model = model.module
        else:
            return model


def text_config(model: nn.Module) -> Any:
    """The configuration of the part that reads and predicts tokens; None for a model that has none."""
    config = getattr(inner_model(model), "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def context_length(model: nn.Module) -> int | None:
    """Tokens a row that the model's positions are made for; None where its configuration does not say.

    RoBERTa and its kin count positions from behind the padding index: two of those that the configuration counts are
    none.
    """
    inner = inner_model(model)
    length = getattr(text_config(inner), "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        return None
    for module in inner.modules():
        table, padding = getattr(module, "position_embeddings", None), getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return table.num_embeddings - padding - 1
    return length


def call_for_logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Run the model, without a key-value cache, and give its logits.

    Raises
    ------
    TypeError
        If the model has no head that makes logits.
    """
    out = model(**inputs, **_no_cache(model, inputs))
    logits = out[0] if isinstance(out, tuple) else getattr(out, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    name = type(inner_model(model)).__name__
    msg = (
        f"{name} returned a {type(out).__name__} without logits: it has no head, so there is nothing to predict with. "
        "Load the class with the head, AutoModelForCausalLM, AutoModelForMaskedLM and so on, in place of AutoModel."
    )
    raise TypeError(msg)


def _no_cache(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, bool]:
    """``use_cache=False`` for a forward that takes it: a cache would copy every key and value for nothing."""
    inner = inner_model(model)
    takes = inspect.signature(inner.forward).parameters
    own = hasattr(getattr(inner, "config", None), "use_cache") and "kwargs" in takes
    return {"use_cache": False} if ("use_cache" in takes or own) and "use_cache" not in inputs else {}
