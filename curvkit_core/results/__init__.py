"""What a computation returns, and how it is kept: result types and their store."""

from curvkit_core.results.store import StoredResult, load_result, save_result
from curvkit_core.results.types import DensityResult, EigenResult, ResultInfo, SolveResult, TraceResult

__all__ = [
    "DensityResult",
    "EigenResult",
    "ResultInfo",
    "SolveResult",
    "StoredResult",
    "TraceResult",
    "load_result",
    "save_result",
]
