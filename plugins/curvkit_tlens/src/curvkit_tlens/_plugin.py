"""What core loads through the entry point `tlens`: light, so that listing plugins imports nothing heavy."""

from collections.abc import Iterable

from curvkit_core import LossAdapterSpec, OperatorSpec, PluginContext, PluginInfo, ProblemSpec, hookimpl

#: What the conformance checks try the components on, and what these cannot keep.
CHECK_CASES = "curvkit_tlens.cases:cases"

MODELS = ("TransformerBridge", "HookedTransformer")


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Say which plugin API this speaks; components are registered by further hooks in this module."""
    return PluginInfo(api="1.0", summary="TransformerLens models: heads, hook points, interventions")


@hookimpl
def curvkit_loss_adapters(ctx: PluginContext) -> Iterable[LossAdapterSpec]:
    """The loss needs no transformer_lens: it calls the model that it is given."""
    yield LossAdapterSpec(
        name="tlens/next-token",
        summary="Cross-entropy of each next token, logits never held",
        factory="curvkit_tlens.next_token:build",
        config="curvkit_tlens.config:NextTokenConfig",
        matches=MODELS,
        priority=10,
        tags=["classification", "language-model", "likelihood", "convex", "units", "sampling", "chunked-head"],
    )


@hookimpl
def curvkit_operators(ctx: PluginContext) -> Iterable[OperatorSpec]:
    """Curvature in an activation, and in the parameters of components or heads."""
    yield OperatorSpec(
        name="tlens/hook-point",
        summary="Hessian, GGN or Fisher in a hook point's activation",
        factory="curvkit_tlens.hook_point:build",
        config="curvkit_tlens.config:HookPointConfig",
        tags=["symmetric", "activations"],
    )
    yield OperatorSpec(
        name="tlens/component",
        summary="Hessian, GGN or Fisher of some components or heads",
        factory="curvkit_tlens.component_operator:build",
        config="curvkit_tlens.config:ComponentConfig",
        tags=["symmetric"],
    )


@hookimpl
def curvkit_problems(ctx: PluginContext) -> Iterable[ProblemSpec]:
    """Models by folder, hub id or native configuration, on text."""
    yield ProblemSpec(
        name="tlens/bridge",
        summary="A TransformerLens model on text, by each next token's loss",
        factory="curvkit_tlens.problem:build",
        config="curvkit_tlens.config:BridgeConfig",
        requires=["transformer-lens>=3"],
        tags=["language-model", "downloads"],
    )
