"""Fingerprints of what a kept graph has read: parameters, buffers, plain attributes, the loss's own tensors, batches.

A tensor's fingerprint is its object, its storage, its version, its shape and a hash of its bytes. Version counters
alone are not enough: fused Adam, ``.data`` writes, ``vector_to_parameters`` and NumPy views move none of them. Sums and
xors over all elements (``torch.hash_tensor``) are not either, since a permutation leaves both as they are.

The hash is :func:`curvkit_core.hashing.content_hash`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from curvkit_core.hashing import as_words, content_hash, hash_of_words
from curvkit_core.losses.batch_tree import tensors

__all__ = ["Fingerprint", "content_hash", "fingerprint_of_batch", "fingerprint_of_model"]

_SMALL = 1 << 12  # words of a tensor that is hashed together with others: calls, not bytes, are what it costs
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@frozen(eq=True)
class Fingerprint:
    """What was seen, to be compared by ``==``: identities, and one 64-bit hash a tensor."""

    identities: tuple[tuple[Any, ...], ...]
    hashes: tuple[int, ...]


def fingerprint_of_model(model: nn.Module, loss: object) -> Fingerprint:
    """Every parameter and buffer under every name: object, storage, version, layout, bytes.

    And what else a forward may read: the modules' plain tensors, numbers and words, their modes, and the loss's; and
    which hooks it runs.
    """
    named: list[tuple[str, Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    plain: list[tuple[Any, ...]] = []
    owners: list[tuple[str, object]] = [*model.named_modules(), ("loss", loss)]
    for owner, thing in owners:
        if isinstance(thing, nn.Module) and (thing._forward_hooks or thing._forward_pre_hooks):
            plain.append((owner, *thing._forward_hooks, None, *thing._forward_pre_hooks))  # numbers torch uses once
        for name, value in _attributes(thing):
            if isinstance(value, Tensor):
                named.append((f"{owner}.{name}", value))
            elif isinstance(value, _PLAIN):
                plain.append((owner, name, type(value), value))
    named = [(name, _here(t)) for name, t in named]
    identities = tuple((name, id(t), t.data_ptr(), _version(t), t.shape, t.stride(), t.dtype) for name, t in named)
    distinct = {id(t): t for _, t in named}
    return Fingerprint((*identities, *plain), _hashes(distinct.values()))


def fingerprint_of_batch(batch: Any) -> Fingerprint:
    """The contents of a batch's tensors: a loader makes new tensors at each pass, so objects do not count."""
    found = list(tensors(batch))
    return Fingerprint(tuple((tuple(t.shape), t.dtype) for t in found), _hashes(found))


def _version(tensor: Tensor) -> int:
    """How often it was written, as far as that is counted: under inference_mode it is not."""
    return 0 if tensor.is_inference() else tensor._version


def _here(tensor: Tensor) -> Tensor:
    """The tensor, or what of a sharded one lies on this rank."""
    to_local = getattr(tensor.detach(), "to_local", None)
    return tensor if to_local is None else cast(Tensor, to_local())


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    if attrs.has(type(thing)):
        yield from ((f.name, getattr(thing, f.name)) for f in attrs.fields(cast(Any, type(thing))))
        return
    for name, value in vars(thing).items() if hasattr(thing, "__dict__") else ():
        if not name.startswith("_"):  # a module's own dictionaries; its parameters and buffers are taken above
            yield name, value


def _hashes(found: Iterable[Tensor]) -> tuple[int, ...]:
    """A hash a large tensor, and one of all small ones in a row (each tensor's size is told beside the hashes)."""
    by_device: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
    for tensor in found:
        for dense in _dense_parts(tensor.detach()):
            words = as_words(dense)
            small, large = by_device.setdefault(dense.device, ([], []))
            (small if words.numel() <= _SMALL else large).append(words)
    hashes: list[int] = []
    for small, large in by_device.values():
        parts = [torch.cat(small), *large] if small else large
        hashes += torch.stack([hash_of_words(words) for words in parts]).tolist()  # one wait a device
    return tuple(hashes)


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)
