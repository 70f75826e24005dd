"""TransformerLens's names for a model's parameters, W_Q and W_in, and where in each tensor its heads are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from curvkit_core.problem.parameters import canonical_name

__all__ = ["NamedComponent", "component_names", "named_components"]

_WRAPPER = "_original_component"
#: A bridge's module and tensor -> what TransformerLens has always called it.
_LEAVES = {
    ("embed", "weight"): "embed.W_E",
    ("pos_embed", "weight"): "pos_embed.W_pos",
    ("unembed", "weight"): "unembed.W_U",
    ("unembed", "bias"): "unembed.b_U",
    **{(m, "weight"): f"W_{m.upper()}" for m in "qkvo"},
    **{(m, "bias"): f"b_{m.upper()}" for m in "qkvo"},
    **{(m, "weight"): f"W_{m}" for m in ("in", "out", "gate")},
    **{(m, "bias"): f"b_{m}" for m in ("in", "out", "gate")},
}
_ATTENTION = frozenset("QKVO")


@frozen(kw_only=True, eq=False)
class NamedComponent:
    """A parameter under TransformerLens's name.

    Parameters
    ----------
    name : str
        ``"blocks.3.attn.W_Q"``.
    parameter : Parameter
        The tensor that the model computes with.
    owner : Module
        Which holds it.
    num_heads : int
        Of this tensor, groups of key and value heads being fewer; 0 where it has no axis of heads.
    head_axis : int
        Which axis the heads, or heads times features, are on.
    heads_each : int
        How many of the model's heads share one of this tensor's.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Module = field(repr=False)
    num_heads: int = 0
    head_axis: int = 0
    heads_each: int = 1

    def mask(self, heads: tuple[int, ...]) -> Tensor:
        """True at these heads' elements; for keys and values at those of the groups that the heads read."""
        size = self.parameter.shape[self.head_axis]
        along = torch.zeros(self.num_heads, size // self.num_heads, dtype=torch.bool)
        along[sorted({head // self.heads_each for head in heads})] = True
        shape = [1] * self.parameter.ndim
        shape[self.head_axis] = size
        return along.view(shape).expand(self.parameter.shape).to(self.parameter.device)


def component_names(model: nn.Module) -> dict[str, str]:
    """TransformerLens's name -> the name of the parameter in a Problem, for every parameter of the model.

    A HookedTransformer's are the same on both sides; a bridge's parameters have transformers' names in a Problem.
    """
    known = {parameter: canonical_name(name) for name, parameter in model.named_parameters()}
    return {c.name: known[c.parameter] for c in named_components(model) if c.parameter in known}


def named_components(model: nn.Module) -> list[NamedComponent]:
    """Every parameter that the model may compute with, under its TransformerLens names.

    A bridge that splits a joint ``qkv`` at boot computes with the parts: the joint tensor is left out.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    best: dict[str, tuple[int, NamedComponent]] = {}
    named: set[nn.Parameter] = set()
    # not model.named_parameters(): a bridge overrides it with the names of the model behind it
    found = list(nn.Module.named_parameters(model, remove_duplicate=False))
    for clean in (True, False):  # a parameter has the names of the components it is in, or else what is left
        taken = {parameter for _, parameter in found} if clean else {p for _, p in found if p not in named}
        for raw, parameter in found:
            path, _, leaf = raw.rpartition(".")
            if parameter not in taken or (clean and not _is_component(path)):
                continue
            name, depth = _tlens_name(path, leaf), path.count(_WRAPPER)
            if name not in best or depth < best[name][0]:
                best[name] = (depth, _component(model, name, parameter, modules[path]))
            named.add(parameter)
    components = [component for _, component in best.values()]
    split = {c.name.rpartition(".")[0] for c in components if c.name.endswith(".W_Q")}
    return [c for c in components if not any(c.name.startswith((f"{a}.qkv.", f"{a}.c_attn.")) for a in split)]


def _is_component(path: str) -> bool:
    """Whether a module is a component's own: HookedTransformer's, or what a bridge's component wraps."""
    head, _, last = path.rpartition(".")
    return _WRAPPER not in head.split(".") and (last == _WRAPPER or _WRAPPER not in path)


def _tlens_name(path: str, leaf: str) -> str:
    parts = [part for part in path.split(".") if part != _WRAPPER]
    last = parts[-1] if parts else ""
    if (last, leaf) in _LEAVES:
        return ".".join([*parts[:-1], _LEAVES[last, leaf]])
    if last.startswith("ln") or last.endswith("norm"):
        leaf = {"weight": "w", "bias": "b"}.get(leaf, leaf)
    return ".".join([*parts, leaf.removeprefix("_")])  # grouped keys and values are _W_K and _W_V


def _component(model: nn.Module, name: str, parameter: nn.Parameter, owner: nn.Module) -> NamedComponent:
    *_, above, leaf = ["", *name.split(".")]
    kind, _, which = leaf.partition("_")
    if above != "attn" or which not in _ATTENTION or (kind == "b" and which == "O"):
        return NamedComponent(name=name, parameter=parameter, owner=owner)
    cfg: Any = model.cfg
    heads = int(cfg.n_heads)
    groups = int(getattr(cfg, "n_key_value_heads", None) or heads) if which in "KV" else heads
    axis = next(_head_axes(owner, kind, which, parameter))
    if parameter.shape[axis] % groups:
        return NamedComponent(name=name, parameter=parameter, owner=owner)
    return NamedComponent(
        name=name, parameter=parameter, owner=owner, num_heads=groups, head_axis=axis, heads_each=heads // groups
    )


def _head_axes(owner: nn.Module, kind: str, which: str, parameter: nn.Parameter) -> Iterator[int]:
    """Heads come first in TransformerLens's own tensors; on the side of the features in a linear map's."""
    if parameter.ndim != 2 or kind == "b":
        yield 0
    elif isinstance(owner, nn.Linear):  # (out, in)
        yield 1 if which == "O" else 0
    else:  # transformers' Conv1D: (in, out)
        yield 0 if which == "O" else 1
