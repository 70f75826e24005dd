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

#: Where the conformance kit finds what it tries these on.
CHECK_CASES = "curvkit_core.testing.core_cases:CASES"


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
        name="core/block-lanczos",
        summary="Eigenpairs by blocks: repeated and clustered eigenvalues",
        factory="curvkit_core.algorithms:BlockLanczos",
        tags=["eigenvalues", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/lobpcg",
        summary="Largest or smallest eigenpairs in bounded memory, preconditioned from Python",
        factory="curvkit_core.algorithms:LOBPCG",
        tags=["eigenvalues", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/power-iteration",
        summary="Eigenvalues of largest magnitude, with momentum",
        factory="curvkit_core.algorithms:PowerIteration",
        tags=["eigenvalues", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/spectral-norm",
        summary="Largest eigenvalue in magnitude, with its residual",
        factory="curvkit_core.algorithms:SpectralNorm",
        tags=["norm", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/sweep",
        summary="Every layer's eigenvalues, trace and norm, and the coupling between layers",
        factory="curvkit_core.algorithms:Sweep",
        tags=["eigenvalues", "trace", "norm", "symmetric-only", "stochastic"],
    )
    yield AlgorithmSpec(
        name="core/lanczos-tridiagonal",
        summary="Tridiagonal matrix and Lanczos basis",
        factory="curvkit_core.algorithms:LanczosTridiagonal",
        tags=["eigenvalues", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/trace",
        summary="Trace by random probes, with its standard error",
        factory="curvkit_core.algorithms:Trace",
        tags=["trace", "stochastic"],
    )
    yield AlgorithmSpec(
        name="core/diagonal",
        summary="Diagonal by random probes, each element with its standard error",
        factory="curvkit_core.algorithms:Diagonal",
        tags=["diagonal", "stochastic"],
    )
    yield AlgorithmSpec(
        name="core/frobenius-norm",
        summary="Frobenius norm by random probes, with its standard error",
        factory="curvkit_core.algorithms:FrobeniusNorm",
        tags=["norm", "stochastic"],
    )
    yield AlgorithmSpec(
        name="core/spectral-density",
        summary="Density of eigenvalues by Lanczos quadrature or kernel polynomials",
        factory="curvkit_core.algorithms:SpectralDensity",
        tags=["spectral-density", "stochastic", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/logdet",
        summary="Log-determinant with damping, by Lanczos quadrature",
        factory="curvkit_core.algorithms:LogDet",
        tags=["logdet", "stochastic", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/effective-dimension",
        summary="Effective dimension tr A (A + damping)^-1, by Lanczos quadrature",
        factory="curvkit_core.algorithms:EffectiveDimension",
        tags=["matrix-function", "trace", "stochastic", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/spectral-sum",
        summary="Sum of a named function over the spectrum, by Lanczos quadrature",
        factory="curvkit_core.algorithms:SpectralSum",
        tags=["matrix-function", "trace", "stochastic", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/solve",
        summary="Damped linear systems by conjugate gradients or MINRES",
        factory="curvkit_core.algorithms:Solve",
        tags=["solve", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/nystrom",
        summary="Low-rank approximation of a psd operator, with its error",
        factory="curvkit_core.algorithms:Nystrom",
        tags=["factorization", "stochastic", "psd-only"],
    )
    yield AlgorithmSpec(
        name="core/matrix-function",
        summary="Square root, inverse, log or exponential times a vector, by Lanczos",
        factory="curvkit_core.algorithms:MatrixFunction",
        tags=["matrix-function", "symmetric-only"],
    )
    yield AlgorithmSpec(
        name="core/condition-number",
        summary="Condition number between bounds, by Lanczos",
        factory="curvkit_core.algorithms:ConditionNumber",
        tags=["symmetric-only"],
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
        name="core/linear-cross-entropy",
        summary="Cross-entropy of a linear head, without the logits",
        factory="curvkit_core.losses:build_linear_cross_entropy",
        config="curvkit_core.losses.config:LinearCrossEntropyConfig",
        tags=["classification", "likelihood", "units"],
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
    yield KernelSpec(
        name="core/linear-ce",
        summary="Cross-entropy of a linear head by rows, eager reference",
        factory="curvkit_core.kernels:chunked_linear_ce",
        op="linear_ce",
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
