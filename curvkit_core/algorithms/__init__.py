"""Algorithms: what to multiply next and what to make of it. The driver alone multiplies.

Here is what all of them share (protocol, basis, driver, checkpoints, Chain and Together); the algorithms themselves lie
by subject in `eigenpairs`, `estimators`, `spectra` and `solves`.
"""

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.blocks.sweep import Sweep, sweep
from curvkit_core.algorithms.chain import Chain
from curvkit_core.algorithms.checkpoint import CheckpointError
from curvkit_core.algorithms.driver import DriverOptions, NonFiniteProductError, ProgressEvent, run
from curvkit_core.algorithms.eigenpairs.block_lanczos import BlockLanczos, block_lanczos
from curvkit_core.algorithms.eigenpairs.condition_number import ConditionNumber, condition_number
from curvkit_core.algorithms.eigenpairs.eigsh import Eigsh, eigsh
from curvkit_core.algorithms.eigenpairs.lanczos_tridiagonal import LanczosTridiagonal, lanczos_tridiagonal
from curvkit_core.algorithms.eigenpairs.lobpcg import LOBPCG, lobpcg
from curvkit_core.algorithms.eigenpairs.power_iteration import PowerIteration, power_iteration
from curvkit_core.algorithms.eigenpairs.spectral_norm import SpectralNorm, spectral_norm
from curvkit_core.algorithms.estimators.diagonal import Diagonal, diagonal
from curvkit_core.algorithms.estimators.frobenius_norm import FrobeniusNorm, frobenius_norm
from curvkit_core.algorithms.estimators.hutchinson import Hutchinson
from curvkit_core.algorithms.estimators.hutchinson_diagonal import HutchinsonDiagonal
from curvkit_core.algorithms.estimators.hutchpp import HutchPlusPlus
from curvkit_core.algorithms.estimators.trace import Trace, trace
from curvkit_core.algorithms.estimators.xdiag import XDiag
from curvkit_core.algorithms.estimators.xnysdiag import XNysDiag
from curvkit_core.algorithms.estimators.xnystrace import XNysTrace
from curvkit_core.algorithms.estimators.xtrace import XTrace
from curvkit_core.algorithms.protocol import Algorithm, Finishes, HasRoom, Progress, ReportsProgress
from curvkit_core.algorithms.seeds import fresh_seed
from curvkit_core.algorithms.solves.cg import ConjugateGradients
from curvkit_core.algorithms.solves.inverse import InverseOperator, SolveError
from curvkit_core.algorithms.solves.matrix_function import MatrixFunction, matrix_function
from curvkit_core.algorithms.solves.minres import Minres
from curvkit_core.algorithms.solves.nystrom import Nystrom, low_rank_operator, nystrom
from curvkit_core.algorithms.solves.preconditioner import DiagonalPreconditioner, NystromPreconditioner, Preconditioner
from curvkit_core.algorithms.solves.solve import Solve, solve
from curvkit_core.algorithms.spectra.effective_dimension import EffectiveDimension, effective_dimension
from curvkit_core.algorithms.spectra.logdet import LogDet, logdet
from curvkit_core.algorithms.spectra.spectral_density import SpectralDensity, spectral_density
from curvkit_core.algorithms.spectra.spectral_sums import SpectralSum, spectral_sum
from curvkit_core.algorithms.together import Together, run_together

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
    "HasRoom",
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
    "Sweep",
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
    "sweep",
    "trace",
]
