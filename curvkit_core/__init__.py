"""Matrix-free curvature of PyTorch models: the public names, each imported on first use (PEP 562)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from curvkit_core.version import PLUGIN_API, __version__

if TYPE_CHECKING:
    from curvkit_core.algorithms import (
        DiagonalPreconditioner,
        InverseOperator,
        NystromPreconditioner,
        block_lanczos,
        condition_number,
        diagonal,
        effective_dimension,
        eigsh,
        frobenius_norm,
        lanczos_tridiagonal,
        lobpcg,
        logdet,
        matrix_function,
        nystrom,
        power_iteration,
        solve,
        spectral_density,
        spectral_norm,
        spectral_sum,
        sweep,
        trace,
    )
    from curvkit_core.errors import CurvkitError
    from curvkit_core.host.hookspecs import PluginContext, hookimpl
    from curvkit_core.host.registry import Registry, default_registry, load_registry
    from curvkit_core.host.specs import (
        AlgorithmSpec,
        BackendSpec,
        KernelSpec,
        LossAdapterSpec,
        OperatorSpec,
        PluginInfo,
        ProblemSpec,
    )
    from curvkit_core.landscape import loss_plane, loss_slice
    from curvkit_core.losses import BCEWithLogitsLoss, CallableLoss, CrossEntropyLoss, LinearCrossEntropyLoss, MSELoss
    from curvkit_core.operators import (
        ActivationOperator,
        BlockDiagonalOperator,
        CurvatureOperator,
        EmpiricalFisherOperator,
        FisherOperator,
        GGNOperator,
        HessianOperator,
        JacobianOperator,
        LambdaOperator,
        StochasticOperator,
        SubmatrixOperator,
        block_diagonal,
    )
    from curvkit_core.problem import Problem, match_names, match_regex
    from curvkit_core.results import load_result, save_result
    from curvkit_core.tracking import CurvatureTracker

__all__ = [
    "PLUGIN_API",
    "ActivationOperator",
    "AlgorithmSpec",
    "BCEWithLogitsLoss",
    "BackendSpec",
    "BlockDiagonalOperator",
    "CallableLoss",
    "CrossEntropyLoss",
    "CurvatureOperator",
    "CurvatureTracker",
    "CurvkitError",
    "DiagonalPreconditioner",
    "EmpiricalFisherOperator",
    "FisherOperator",
    "GGNOperator",
    "HessianOperator",
    "InverseOperator",
    "JacobianOperator",
    "KernelSpec",
    "LambdaOperator",
    "LinearCrossEntropyLoss",
    "LossAdapterSpec",
    "MSELoss",
    "NystromPreconditioner",
    "OperatorSpec",
    "PluginContext",
    "PluginInfo",
    "Problem",
    "ProblemSpec",
    "Registry",
    "StochasticOperator",
    "SubmatrixOperator",
    "__version__",
    "block_diagonal",
    "block_lanczos",
    "condition_number",
    "default_registry",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "hookimpl",
    "lanczos_tridiagonal",
    "load_registry",
    "load_result",
    "lobpcg",
    "logdet",
    "loss_plane",
    "loss_slice",
    "match_names",
    "match_regex",
    "matrix_function",
    "nystrom",
    "power_iteration",
    "save_result",
    "solve",
    "spectral_density",
    "spectral_norm",
    "spectral_sum",
    "sweep",
    "trace",
]

_HOME = {
    "algorithms": (
        "DiagonalPreconditioner",
        "InverseOperator",
        "NystromPreconditioner",
        "block_lanczos",
        "condition_number",
        "diagonal",
        "effective_dimension",
        "eigsh",
        "frobenius_norm",
        "lanczos_tridiagonal",
        "lobpcg",
        "logdet",
        "matrix_function",
        "nystrom",
        "power_iteration",
        "solve",
        "spectral_density",
        "spectral_norm",
        "spectral_sum",
        "sweep",
        "trace",
    ),
    "errors": ("CurvkitError",),
    "host.hookspecs": ("PluginContext", "hookimpl"),
    "host.registry": ("Registry", "default_registry", "load_registry"),
    "host.specs": (
        "AlgorithmSpec",
        "BackendSpec",
        "KernelSpec",
        "LossAdapterSpec",
        "OperatorSpec",
        "PluginInfo",
        "ProblemSpec",
    ),
    "landscape": ("loss_plane", "loss_slice"),
    "losses": ("BCEWithLogitsLoss", "CallableLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss", "MSELoss"),
    "operators": (
        "ActivationOperator",
        "BlockDiagonalOperator",
        "CurvatureOperator",
        "EmpiricalFisherOperator",
        "FisherOperator",
        "GGNOperator",
        "HessianOperator",
        "JacobianOperator",
        "LambdaOperator",
        "StochasticOperator",
        "SubmatrixOperator",
        "block_diagonal",
    ),
    "problem": ("Problem", "match_names", "match_regex"),
    "results": ("load_result", "save_result"),
    "tracking": ("CurvatureTracker",),
}
_MODULE_OF = {name: f"curvkit_core.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    if name.startswith("_"):  # protocols that Python asks for: no search for near names
        msg = f"module 'curvkit_core' has no attribute {name!r}"
        raise AttributeError(msg)
    from curvkit_core.host.near_names import did_you_mean

    msg = f"module 'curvkit_core' has no attribute {name!r}{did_you_mean(name, __all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
