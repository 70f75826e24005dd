"""How much memory an autograd graph holds: the distinct storages that its nodes have saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["graph_bytes"]


def graph_bytes(roots: Iterable[Tensor], *, besides: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors saved in the graphs behind `roots`, each storage once, those of `besides` left out.

    Counts what the nodes show as ``_saved_*`` (torch's own operations) or ``saved_tensors`` (Python ones); what a C++
    extension saves otherwise is not seen.
    """
    known = {t.untyped_storage().data_ptr() for t in besides}
    total = 0
    for tensor in _saved([t.grad_fn for t in roots if t.grad_fn is not None]):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _saved(nodes: list[Any]) -> Iterator[Tensor]:
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        yield from _saved_by(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)


def _saved_by(node: Any) -> Iterator[Tensor]:
    names = [name for name in dir(node) if name.startswith("_saved_")]
    if not names and hasattr(node, "saved_tensors"):
        names = ["saved_tensors"]
    for name in names:
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed, or changed in place since: not counted
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, torch.Tensor):
                yield item
