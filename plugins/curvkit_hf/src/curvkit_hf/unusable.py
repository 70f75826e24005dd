"""Models whose curvature cannot be had, each refused by name with the mend, before anything is computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from curvkit_hf.inner_model import inner_model

__all__ = ["refuse_unusable"]

#: Packages that put fused functions, with first derivatives only, in the place of a model's own.
_PATCHERS = {
    "liger_kernel": "use_liger_kernel=False, and no apply_liger_kernel_to_...",
    "unsloth": "transformers' from_pretrained, with unsloth not imported",
    "unsloth_zoo": "transformers' from_pretrained, with unsloth not imported",
    "cut_cross_entropy": "no cce_patch",
}
_QUANTISED = ("Params4bit", "Int8Params")


def refuse_unusable(model: nn.Module) -> None:
    """Refuse a model on the meta device, a quantised one, and one that is patched with first-order kernels.

    Raises
    ------
    ValueError
        Saying what was found where, and what to load instead.
    """
    name = type(inner_model(model)).__name__
    _refuse_quantised(model, name)
    _refuse_patched(model)
    on_meta = [parameter for parameter, value in model.named_parameters() if value.is_meta]
    if on_meta:
        msg = (
            f"{len(on_meta)} parameters of {name} are on the meta device and hold no values, {on_meta[0]!r} the first: "
            "made under torch.device('meta'), or offloaded by device_map. Load the weights with from_pretrained, "
            "onto devices that hold all of them."
        )
        raise ValueError(msg)


def _refuse_quantised(model: nn.Module, name: str) -> None:
    inner: Any = inner_model(model)
    method = getattr(getattr(inner, "hf_quantizer", None), "quantization_config", None)
    if method is None and getattr(inner, "is_quantized", False):
        method = getattr(getattr(inner, "config", None), "quantization_config", None)
    kinds = {type(value).__name__ for value in model.parameters()} & set(_QUANTISED)
    if method is None and not kinds:
        return
    how = getattr(method, "quant_method", None) or "bitsandbytes"
    msg = (
        f"{name} is quantised ({getattr(how, 'value', how)}): its weights are codes, and its kernels have no second "
        "derivative. Load it without quantization_config, in float32 or bfloat16."
    )
    raise ValueError(msg)


def _refuse_patched(model: nn.Module) -> None:
    for path, module in model.named_modules():
        patcher = _patcher(module)
        if patcher is not None:
            where = f"{path!r}, a {type(module).__name__}," if path else type(module).__name__
            msg = (
                f"{where} is patched by {patcher}: fused functions that make their gradient in the forward pass, or "
                f"have no second derivative, give wrong curvature. Load the model unpatched: {_PATCHERS[patcher]}."
            )
            raise ValueError(msg)


def _patcher(module: nn.Module) -> str | None:
    """Which package the module's class, its forward or its loss function is from, if it is one that patches."""
    cls = type(module)
    functions = (cls, cls.forward, vars(module).get("forward"), vars(module).get("_loss_function"))
    for function in functions:
        source = getattr(getattr(function, "__func__", function), "__module__", None)
        package = str(source).partition(".")[0]
        if package in _PATCHERS:
            return package
    return None
