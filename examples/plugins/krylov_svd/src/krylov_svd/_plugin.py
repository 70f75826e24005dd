"""What core loads through the entry point `krylov`: names and strings, nothing heavy."""

from collections.abc import Iterator

from curvkit_core import AlgorithmSpec, PluginContext, PluginInfo, hookimpl

#: What the conformance checks try the algorithm with, and what its result claims.
CHECK_CASES = "krylov_svd.cases:CASES"


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Speak plugin API 1.0."""
    return PluginInfo(api="1.0", summary="Randomized block Krylov singular values")


@hookimpl
def curvkit_algorithms(ctx: PluginContext) -> Iterator[AlgorithmSpec]:
    """Offer the algorithm."""
    yield AlgorithmSpec(
        name="krylov/svd",
        summary="Largest singular triplets by randomized block Krylov iteration",
        factory="krylov_svd.block_krylov:BlockKrylovSVD",
        tags=["singular-values", "stochastic", "symmetric-only"],
    )
