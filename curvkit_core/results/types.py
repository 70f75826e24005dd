"""The catalogue of core's result types: an estimate, what is known of its error, and what the error covers."""

from curvkit_core.results.density import DensityResult
from curvkit_core.results.eigen import EigenResult
from curvkit_core.results.estimates import TraceResult
from curvkit_core.results.info import ResultInfo
from curvkit_core.results.solves import SolveResult

__all__ = ["DensityResult", "EigenResult", "ResultInfo", "SolveResult", "TraceResult"]
