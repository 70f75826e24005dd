"""What core loads through the entry point `triton`: light, so that listing plugins imports nothing heavy."""

from collections.abc import Iterable

from curvkit_core import KernelSpec, PluginContext, PluginInfo, hookimpl

HALVES_AND_SINGLE = ("float32", "bfloat16", "float16")


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Say which plugin API this speaks; components are registered by further hooks in this module."""
    return PluginInfo(api="1.0", summary="Triton and compiled kernels for cross-entropy curvature")


@hookimpl
def curvkit_kernels(ctx: PluginContext) -> Iterable[KernelSpec]:
    """On a GPU Triton before the compiled, and these before core's references; on a CPU compiling does not pay."""
    yield KernelSpec(
        name="triton/ce-hvp",
        summary="Cross-entropy Hessian product, a row a program, strided and in place",
        factory="curvkit_triton.ce_hvp:ce_hvp",
        op="ce_hvp",
        devices=["cuda"],
        dtypes=HALVES_AND_SINGLE,
        priority=20,
        probe="curvkit_triton.probes:triton",
        tags=["repeatable"],
    )
    yield KernelSpec(
        name="triton/linear-ce",
        summary="Cross-entropy of a linear head, two sweeps over tiles of logits",
        factory="curvkit_triton.linear_ce:triton_linear_ce",
        op="linear_ce",
        devices=["cuda"],
        dtypes=HALVES_AND_SINGLE,
        priority=20,
        probe="curvkit_triton.probes:triton",
        tolerance=2.0**-16,
        tags=["repeatable"],
    )
    yield KernelSpec(
        name="triton/ce-hvp-compile",
        summary="Cross-entropy Hessian product, core's chunks under torch.compile",
        factory="curvkit_triton.compiled_ce_hvp:compiled_ce_hvp",
        op="ce_hvp",
        devices=["cuda", "mps"],
        dtypes=HALVES_AND_SINGLE,
        priority=10,
        probe="curvkit_triton.probes:compiler",
        tags=["compiled", "repeatable"],
    )
    yield KernelSpec(
        name="triton/linear-ce-compile",
        summary="Cross-entropy of a linear head, core's chunks under torch.compile",
        factory="curvkit_triton.compiled_linear_ce:compiled_linear_ce",
        op="linear_ce",
        devices=["cuda", "mps"],
        dtypes=HALVES_AND_SINGLE,
        priority=10,
        probe="curvkit_triton.probes:compiler",
        tags=["compiled", "repeatable"],
    )
