"""What core loads through the entry point `ddp`: light, so that listing plugins imports nothing heavy."""

from collections.abc import Iterable

from curvkit_core import BackendSpec, PluginContext, PluginInfo, hookimpl

#: What the conformance checks try the backends on.
CHECK_CASES = "curvkit_ddp.cases:CASES"


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Say which plugin API this speaks; components are registered by further hooks in this module."""
    return PluginInfo(api="1.0", summary="Replicated and sharded models on many ranks")


@hookimpl
def curvkit_backends(ctx: PluginContext) -> Iterable[BackendSpec]:
    """Under a launcher `auto` takes the replicated one; a sharded model is never made without being asked for."""
    yield BackendSpec(
        name="ddp/replicated",
        summary="Data parallel: one collective of the vectors' size a product",
        factory="curvkit_ddp.replicated:build_replicated",
        config="curvkit_ddp.config:ReplicatedConfig",
        priority=10,
        probe="curvkit_ddp.probes:launched",
        tags=["replicated"],
    )
    yield BackendSpec(
        name="ddp/sharded",
        summary="Parameters, vectors and bases in parts, for models that fully_shard has sharded",
        factory="curvkit_ddp.sharded:build_sharded",
        config="curvkit_ddp.config:ShardedConfig",
        probe="curvkit_ddp.probes:launched",
        tags=["sharded"],
    )
