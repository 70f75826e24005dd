"""Kernels: the products of a loss's own curvature, as eager references and as the protocols that others fill."""

from curvkit_core.kernels.ce_hvp import ce_hvp
from curvkit_core.kernels.protocols import CeHvp, Kernels

__all__ = ["CeHvp", "Kernels", "ce_hvp"]
