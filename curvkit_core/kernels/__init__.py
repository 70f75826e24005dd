"""Kernels: the products of a loss's own curvature, as eager references and as the protocols that others fill."""

from curvkit_core.kernels.ce_hvp import ce_hvp
from curvkit_core.kernels.ce_outer import ce_outer
from curvkit_core.kernels.linear_ce import linear_ce, linear_ce_ggn
from curvkit_core.kernels.linear_ce_calculus import differentiable_losses
from curvkit_core.kernels.linear_ce_chunked import ChunkedLinearCe, HeadInputs, Wanted, chunked_linear_ce
from curvkit_core.kernels.linear_ce_options import LinearCeOptions, RowTargets, read_targets
from curvkit_core.kernels.protocols import CeHvp, Kernels, LinearCe

__all__ = [
    "CeHvp",
    "ChunkedLinearCe",
    "HeadInputs",
    "Kernels",
    "LinearCe",
    "LinearCeOptions",
    "RowTargets",
    "Wanted",
    "ce_hvp",
    "ce_outer",
    "chunked_linear_ce",
    "differentiable_losses",
    "linear_ce",
    "linear_ce_ggn",
    "read_targets",
]
