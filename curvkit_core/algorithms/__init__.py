"""Algorithms: what to multiply next and what to make of it. The driver alone multiplies."""

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.cg import ConjugateGradients
from curvkit_core.algorithms.chain import Chain
from curvkit_core.algorithms.checkpoint import CheckpointError
from curvkit_core.algorithms.driver import DriverOptions, NonFiniteProductError, ProgressEvent, run
from curvkit_core.algorithms.eigsh import Eigsh, eigsh
from curvkit_core.algorithms.hutchinson import Hutchinson
from curvkit_core.algorithms.hutchpp import HutchPlusPlus
from curvkit_core.algorithms.inverse import InverseOperator, SolveError
from curvkit_core.algorithms.protocol import Algorithm, Finishes, Progress, ReportsProgress
from curvkit_core.algorithms.seeds import fresh_seed
from curvkit_core.algorithms.solve import solve
from curvkit_core.algorithms.spectral_density import SpectralDensity, spectral_density
from curvkit_core.algorithms.together import Together, run_together
from curvkit_core.algorithms.trace import Trace, trace

__all__ = [
    "Algorithm",
    "Basis",
    "Chain",
    "CheckpointError",
    "ConjugateGradients",
    "DriverOptions",
    "Eigsh",
    "Finishes",
    "HutchPlusPlus",
    "Hutchinson",
    "InverseOperator",
    "NonFiniteProductError",
    "Progress",
    "ProgressEvent",
    "ReportsProgress",
    "SolveError",
    "SpectralDensity",
    "Together",
    "Trace",
    "eigsh",
    "fresh_seed",
    "run",
    "run_together",
    "solve",
    "spectral_density",
    "trace",
]
