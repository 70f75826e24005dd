"""Core's own components, registered through the same hooks as anyone's; strings only, so nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable

from curvkit_core.host.hookspecs import PluginContext, hookimpl
from curvkit_core.host.specs import (
    AlgorithmSpec,
    BackendSpec,
    KernelSpec,
    LossAdapterSpec,
    OperatorSpec,
    PluginInfo,
    ProblemSpec,
)
from curvkit_core.version import PLUGIN_API


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Core speaks its own API."""
    return PluginInfo(api=PLUGIN_API, summary="The parts that come with curvkit-core")


@hookimpl
def curvkit_operators(ctx: PluginContext) -> Iterable[OperatorSpec]:
    """Core's operators."""
    yield OperatorSpec(
        name="core/hessian",
        summary="Hessian of the loss over all data",
        factory="curvkit_core.operators:build_hessian",
        config="curvkit_core.operators.config:HessianConfig",
        tags=["symmetric", "exact"],
    )
    yield OperatorSpec(
        name="core/ggn",
        summary="Generalized Gauss-Newton matrix of the loss over all data",
        factory="curvkit_core.operators:build_ggn",
        config="curvkit_core.operators.config:GGNConfig",
        tags=["symmetric", "psd", "exact"],
    )
    yield OperatorSpec(
        name="core/fisher",
        summary="Fisher with targets drawn from the model, so many a unit",
        factory="curvkit_core.operators:build_fisher",
        config="curvkit_core.operators.config:FisherConfig",
        tags=["symmetric", "psd", "approximate", "needs-units"],
    )
    yield OperatorSpec(
        name="core/block-diagonal",
        summary="Hessian, GGN or Fisher without the coupling between groups",
        factory="curvkit_core.operators:build_block_diagonal",
        config="curvkit_core.operators.config:BlockDiagonalConfig",
        tags=["symmetric", "approximate"],
    )
    yield OperatorSpec(
        name="core/empirical-fisher",
        summary="Covariance of the units' own loss gradients",
        factory="curvkit_core.operators:build_empirical_fisher",
        config="curvkit_core.operators.config:EmpiricalFisherConfig",
        tags=["symmetric", "psd", "exact", "needs-units"],
    )


@hookimpl
def curvkit_algorithms(ctx: PluginContext) -> Iterable[AlgorithmSpec]:
    """Core's algorithms."""
    yield AlgorithmSpec(
        name="core/eigsh",
        summary="Some eigenvalues and eigenvectors, with residuals",
        factory="curvkit_core.algorithms:Eigsh",
        tags=["eigenvalues", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/trace",
        summary="Trace by random probes, with its standard error",
        factory="curvkit_core.algorithms:Trace",
        tags=["trace", "stochastic"],
    )
    yield AlgorithmSpec(
        name="core/spectral-density",
        summary="Density of eigenvalues by stochastic Lanczos quadrature",
        factory="curvkit_core.algorithms:SpectralDensity",
        tags=["spectral-density", "stochastic", "symmetric-only"],
    )


@hookimpl
def curvkit_loss_adapters(ctx: PluginContext) -> Iterable[LossAdapterSpec]:
    """Core's losses; `CallableLoss` takes a function, so it is for Python only."""
    yield LossAdapterSpec(
        name="core/cross-entropy",
        summary="Cross-entropy of logits against class numbers",
        factory="curvkit_core.losses:build_cross_entropy",
        config="curvkit_core.losses.config:CrossEntropyConfig",
        tags=["classification", "likelihood", "convex", "units"],
    )
    yield LossAdapterSpec(
        name="core/mse",
        summary="Squared error",
        factory="curvkit_core.losses:build_mse",
        config="curvkit_core.losses.config:MSEConfig",
        tags=["regression", "likelihood", "convex", "units"],
    )
    yield LossAdapterSpec(
        name="core/bce-with-logits",
        summary="Binary cross-entropy of logits",
        factory="curvkit_core.losses:build_bce_with_logits",
        config="curvkit_core.losses.config:BCEWithLogitsConfig",
        tags=["classification", "likelihood", "convex", "units"],
    )


@hookimpl
def curvkit_backends(ctx: PluginContext) -> Iterable[BackendSpec]:
    """One process."""
    yield BackendSpec(
        name="core/single",
        summary="One process, one device",
        factory="curvkit_core.backends:SingleBackend",
        priority=0,
        tags=["single"],
    )


@hookimpl
def curvkit_kernels(ctx: PluginContext) -> Iterable[KernelSpec]:
    """The references, which run anywhere."""
    yield KernelSpec(
        name="core/ce-hvp",
        summary="Cross-entropy Hessian product, eager reference",
        factory="curvkit_core.kernels:ce_hvp",
        op="ce_hvp",
        devices=["*"],
        dtypes=["float64", "float32", "bfloat16", "float16"],
        priority=0,
        tags=["reference", "repeatable"],
    )


@hookimpl
def curvkit_problems(ctx: PluginContext) -> Iterable[ProblemSpec]:
    """The demo, and the user's own Python."""
    yield ProblemSpec(
        name="core/digits-mlp",
        summary="An MLP trained on the UCI handwritten digits",
        factory="curvkit_core.problem.digits_mlp:build",
        config="curvkit_core.problem.digits_config:DigitsMLPConfig",
        requires=["scikit-learn>=1.3"],
        tags=["demo", "classification", "training"],
    )
    yield ProblemSpec(
        name="core/python",
        summary="A Problem from a Python function of yours",
        factory="curvkit_core.problem.python_factory:build",
        config="curvkit_core.problem.python_config:PythonProblemConfig",
        tags=["user-code"],
    )
