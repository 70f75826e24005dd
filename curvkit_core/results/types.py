"""The catalogue of core's result types: an estimate, what is known of its error, and what the error covers."""

from curvkit_core.results.conditioning import ConditionResult
from curvkit_core.results.density import DensityResult
from curvkit_core.results.eigen import EigenHistory, EigenResult
from curvkit_core.results.estimates import DiagonalResult, NormResult, TraceResult
from curvkit_core.results.functions import FunctionResult, KrylovProjection, KrylovResult
from curvkit_core.results.info import ResultInfo
from curvkit_core.results.lanczos import LanczosResult
from curvkit_core.results.landscape import PlaneResult, SliceResult
from curvkit_core.results.low_rank import NystromResult
from curvkit_core.results.norms import SpectralNormResult
from curvkit_core.results.solves import SolveResult
from curvkit_core.results.spectral_sums import SpectralSumResult
from curvkit_core.results.sweeps import SweepResult, SweepRow

__all__ = [
    "ConditionResult",
    "DensityResult",
    "DiagonalResult",
    "EigenHistory",
    "EigenResult",
    "FunctionResult",
    "KrylovProjection",
    "KrylovResult",
    "LanczosResult",
    "NormResult",
    "NystromResult",
    "PlaneResult",
    "ResultInfo",
    "SliceResult",
    "SolveResult",
    "SpectralNormResult",
    "SpectralSumResult",
    "SweepResult",
    "SweepRow",
    "TraceResult",
]
