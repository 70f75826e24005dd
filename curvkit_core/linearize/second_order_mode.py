"""Where second derivatives exist: fused attention has none, so the math form runs instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvkit_core.losses.protocol import LossAdapter, PreparesSecondOrder

__all__ = ["second_order_mode"]


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
