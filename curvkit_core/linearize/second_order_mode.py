"""Where second derivatives exist: fused attention has none, so the math form runs instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvkit_core.losses.protocol import LossAdapter, PreparesSecondOrder

__all__ = ["no_fast_path", "second_order_mode"]


@contextmanager
def second_order_mode(model: nn.Module, loss: LossAdapter) -> Iterator[None]:
    """Surround a forward and all its backward passes.

    ``scaled_dot_product_attention`` runs in its math form, which costs O(T^2) memory in the sequence length; the loss
    adapter may do more for its own models.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if isinstance(loss, PreparesSecondOrder):
            stack.enter_context(loss.second_order(model))
        yield


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Surround any forward: torch's own transformer layers are run layer by layer, also where no gradient is recorded.

    In eval mode they else take one fused call a layer, which has no forward-mode derivative, and hand nested tensors
    from layer to layer, which have no shape.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
