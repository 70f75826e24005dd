"""What core loads through the entry point `acme`: names and strings, nothing heavy."""

from collections.abc import Iterator

from curvkit_core import AlgorithmSpec, OperatorSpec, PluginContext, PluginInfo, hookimpl

#: What the conformance checks try the operator on, and what it cannot keep.
CHECK_CASES = "acme_curvature.cases:CASES"


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Speak plugin API 1.0."""
    return PluginInfo(api="1.0", summary="An example: one operator, one algorithm")


@hookimpl
def curvkit_operators(ctx: PluginContext) -> Iterator[OperatorSpec]:
    """Offer the Jacobian's Gram matrix."""
    yield OperatorSpec(
        name="acme/jacobian-gram",
        summary="J^T J of the network's outputs: the spectrum of the empirical NTK",
        factory="acme_curvature.jacobian_gram:build",
        config="acme_curvature.config:JacobianGramConfig",
        tags=["symmetric", "psd"],
    )


@hookimpl
def curvkit_algorithms(ctx: PluginContext) -> Iterator[AlgorithmSpec]:
    """Offer randomized subspace iteration."""
    yield AlgorithmSpec(
        name="acme/subspace-iteration",
        summary="Dominant eigenpairs by randomized subspace iteration",
        factory="acme_curvature.subspace_iteration:SubspaceIteration",
        tags=["eigenvalues", "symmetric-only"],
    )
