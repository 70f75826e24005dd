"""What a computation returns, and how it is kept: result types and their store."""

from curvkit_core.results.store import StoredResult, load_result, save_result
from curvkit_core.results.types import (
    ConditionResult,
    DensityResult,
    DiagonalResult,
    EigenResult,
    FunctionResult,
    KrylovResult,
    LanczosResult,
    NormResult,
    NystromResult,
    ResultInfo,
    SolveResult,
    SpectralNormResult,
    SpectralSumResult,
    TraceResult,
)

__all__ = [
    "ConditionResult",
    "DensityResult",
    "DiagonalResult",
    "EigenResult",
    "FunctionResult",
    "KrylovResult",
    "LanczosResult",
    "NormResult",
    "NystromResult",
    "ResultInfo",
    "SolveResult",
    "SpectralNormResult",
    "SpectralSumResult",
    "StoredResult",
    "TraceResult",
    "load_result",
    "save_result",
]
