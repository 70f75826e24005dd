"""What core loads through the entry point `laplace`: names and strings, nothing heavy."""

from collections.abc import Iterator

from curvkit_core import OperatorSpec, PluginContext, PluginInfo, hookimpl

#: What the conformance checks try the operator on.
CHECK_CASES = "laplace_precision.cases:CASES"


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Speak plugin API 1.0."""
    return PluginInfo(api="1.0", summary="Precision of a Laplace posterior")


@hookimpl
def curvkit_operators(ctx: PluginContext) -> Iterator[OperatorSpec]:
    """Offer the posterior's precision."""
    yield OperatorSpec(
        name="laplace/precision",
        summary="GGN, weight decay and the eigenpairs of an earlier task",
        factory="laplace_precision.precision:build",
        config="laplace_precision.config:PrecisionConfig",
        tags=["symmetric", "psd", "exact"],
    )
