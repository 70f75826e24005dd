"""Algorithms: what to multiply next and what to make of it. The driver alone multiplies."""

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.block_lanczos import BlockLanczos, block_lanczos
from curvkit_core.algorithms.cg import ConjugateGradients
from curvkit_core.algorithms.chain import Chain
from curvkit_core.algorithms.checkpoint import CheckpointError
from curvkit_core.algorithms.condition_number import ConditionNumber, condition_number
from curvkit_core.algorithms.diagonal import Diagonal, diagonal
from curvkit_core.algorithms.driver import DriverOptions, NonFiniteProductError, ProgressEvent, run
from curvkit_core.algorithms.effective_dimension import EffectiveDimension, effective_dimension
from curvkit_core.algorithms.eigsh import Eigsh, eigsh
from curvkit_core.algorithms.frobenius_norm import FrobeniusNorm, frobenius_norm
from curvkit_core.algorithms.hutchinson import Hutchinson
from curvkit_core.algorithms.hutchinson_diagonal import HutchinsonDiagonal
from curvkit_core.algorithms.hutchpp import HutchPlusPlus
from curvkit_core.algorithms.inverse import InverseOperator, SolveError
from curvkit_core.algorithms.lanczos_tridiagonal import LanczosTridiagonal, lanczos_tridiagonal
from curvkit_core.algorithms.lobpcg import LOBPCG, lobpcg
from curvkit_core.algorithms.logdet import LogDet, logdet
from curvkit_core.algorithms.matrix_function import MatrixFunction, matrix_function
from curvkit_core.algorithms.minres import Minres
from curvkit_core.algorithms.nystrom import Nystrom, low_rank_operator, nystrom
from curvkit_core.algorithms.power_iteration import PowerIteration, power_iteration
from curvkit_core.algorithms.preconditioner import DiagonalPreconditioner, NystromPreconditioner, Preconditioner
from curvkit_core.algorithms.protocol import Algorithm, Finishes, Progress, ReportsProgress
from curvkit_core.algorithms.seeds import fresh_seed
from curvkit_core.algorithms.solve import Solve, solve
from curvkit_core.algorithms.spectral_density import SpectralDensity, spectral_density
from curvkit_core.algorithms.spectral_norm import SpectralNorm, spectral_norm
from curvkit_core.algorithms.spectral_sums import SpectralSum, spectral_sum
from curvkit_core.algorithms.together import Together, run_together
from curvkit_core.algorithms.trace import Trace, trace
from curvkit_core.algorithms.xdiag import XDiag
from curvkit_core.algorithms.xnysdiag import XNysDiag
from curvkit_core.algorithms.xnystrace import XNysTrace
from curvkit_core.algorithms.xtrace import XTrace

__all__ = [
    "LOBPCG",
    "Algorithm",
    "Basis",
    "BlockLanczos",
    "Chain",
    "CheckpointError",
    "ConditionNumber",
    "ConjugateGradients",
    "Diagonal",
    "DiagonalPreconditioner",
    "DriverOptions",
    "EffectiveDimension",
    "Eigsh",
    "Finishes",
    "FrobeniusNorm",
    "HutchPlusPlus",
    "Hutchinson",
    "HutchinsonDiagonal",
    "InverseOperator",
    "LanczosTridiagonal",
    "LogDet",
    "MatrixFunction",
    "Minres",
    "NonFiniteProductError",
    "Nystrom",
    "NystromPreconditioner",
    "PowerIteration",
    "Preconditioner",
    "Progress",
    "ProgressEvent",
    "ReportsProgress",
    "Solve",
    "SolveError",
    "SpectralDensity",
    "SpectralNorm",
    "SpectralSum",
    "Together",
    "Trace",
    "XDiag",
    "XNysDiag",
    "XNysTrace",
    "XTrace",
    "block_lanczos",
    "condition_number",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "fresh_seed",
    "frobenius_norm",
    "lanczos_tridiagonal",
    "lobpcg",
    "logdet",
    "low_rank_operator",
    "matrix_function",
    "nystrom",
    "power_iteration",
    "run",
    "run_together",
    "solve",
    "spectral_density",
    "spectral_norm",
    "spectral_sum",
    "trace",
]
