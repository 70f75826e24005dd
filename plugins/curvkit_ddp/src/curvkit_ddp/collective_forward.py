"""An FSDP2 model whose forward makes each block's weights whole just before it runs, and lets them go just after.

FSDP's own hooks are put aside for the length of the context: they free storage after the first backward, and cannot be
differentiated twice. What stands in a parameter's place is read when the block is called: the values that a
linearization has swapped in, or the user's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import define, field
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from curvkit_ddp.shards import Cut, cut_of, local_part
from curvkit_ddp.whole_weights import Bundle, WholeWeights

__all__ = ["Blocks"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


@define(eq=False)
class _Block:
    """A module that FSDP shards as one, and the places of its parameters: those in no block below it."""

    name: str
    module: nn.Module
    places: list[tuple[nn.Module, str, Cut]]
    _held: list[dict[str, Any]] = field(factory=list)
    _bundles: list[tuple[Bundle, list[Tensor]]] = field(factory=list)

    def enter(self, wholes: WholeWeights) -> None:
        """Put whole weights in their places."""
        values = [module._parameters[name] for module, name, _ in self.places]
        groups: dict[tuple[Any, bool], list[int]] = {}
        distinct: dict[int, int] = {}
        for i, value in enumerate(values):
            if id(value) not in distinct:  # tied within the block: one whole for all its places
                distinct[id(value)] = i
                groups.setdefault((value.dtype, value.requires_grad), []).append(i)
        made: dict[int, Tensor] = {}
        self._bundles = []
        for members in groups.values():
            own = [local_part(values[i]) for i in members]
            bundle = Bundle(self.name, tuple(self.places[i][2] for i in members), tuple(v.detach() for v in own))
            found = list(wholes.gather(bundle, own))
            self._bundles.append((bundle, found))
            made.update(zip(members, found, strict=True))
        self._held = [dict(module._parameters) for module, _, _ in self.places]
        for (module, name, _), value in zip(self.places, values, strict=True):
            module._parameters[name] = made[distinct[id(value)]]  # type: ignore[assignment]

    def leave(self, wholes: WholeWeights) -> None:
        """Put back what was there; nothing, where entering has failed."""
        if self._held:
            for (module, name, _), held in zip(self.places, self._held, strict=True):
                module._parameters[name] = held[name]
        for bundle, found in self._bundles:
            wholes.remember(bundle, found)
        self._held, self._bundles = [], []


@define(eq=False)
class Blocks:
    """The blocks of a model, with the root's apart: its weights are whole for the whole forward, as FSDP has them.

    Parameters
    ----------
    root : _Block or None
        Where the model itself is sharded.
    inner : list of _Block
    """

    root: _Block | None
    inner: list[_Block]

    @classmethod
    def of(cls, model: nn.Module) -> Blocks:
        """Find them."""
        found = [
            _Block(name or "the model", module, _places(module))
            for name, module in model.named_modules()
            if isinstance(module, FSDPModule)
        ]
        root = next((block for block in found if block.module is model), None)
        return cls(root, [block for block in found if block is not root])

    @contextmanager
    def hooked(self, wholes: WholeWeights) -> Iterator[None]:
        """FSDP's hooks aside, and ours on every block but the root."""
        modules = [block.module for block in (*self.inner, *([self.root] if self.root is not None else []))]
        saved = [{name: module.__dict__[name] for name in _HOOKS} for module in modules]
        handles = []
        try:
            for module in modules:
                for name in _HOOKS:
                    kept = {k: h for k, h in module.__dict__[name].items() if not _is_fsdp(h)}
                    module.__dict__[name] = OrderedDict(kept)
            for block in self.inner:
                before, after = _hooks(block, wholes)
                handles.append(block.module.register_forward_pre_hook(before, prepend=True))
                handles.append(block.module.register_forward_hook(after, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, dictionaries in zip(modules, saved, strict=True):
                module.__dict__.update(dictionaries)

    @contextmanager
    def forward(self, wholes: WholeWeights) -> Iterator[None]:
        """Surround one forward: the root's weights are whole."""
        with ExitStack() as stack:
            if self.root is not None:
                self.root.enter(wholes)
                stack.callback(self.root.leave, wholes)
            yield


def _places(block: nn.Module) -> list[tuple[nn.Module, str, Cut]]:
    found: list[tuple[nn.Module, str, Cut]] = []
    waiting = [("", block)]
    while waiting:
        prefix, module = waiting.pop()
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                found.append((module, name, cut_of(f"{prefix}{name}", parameter)))
        waiting += [(f"{prefix}{n}.", m) for n, m in module.named_children() if not isinstance(m, FSDPModule)]
    return found


def _hooks(block: _Block, wholes: WholeWeights) -> tuple[Any, Any]:
    def before(module: nn.Module, args: Any) -> None:
        block.enter(wholes)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        block.leave(wholes)

    return before, after


def _is_fsdp(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")
