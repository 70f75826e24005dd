"""What a sweep over groups of parameters finds: a row a group, and how the groups are coupled."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["SweepResult", "SweepRow"]


@frozen(kw_only=True, eq=False)
class SweepRow:
    r"""One group g: its diagonal block :math:`A_{gg}`.

    Parameters
    ----------
    group : str
        A module's name, a parameter's, or the glob.
    n : int
        Its parameters.
    trace, trace_stderr : float
        With one standard error over the probes.
    share : float
        Of the sum of all groups' traces.
    frobenius_norm, frobenius_stderr : float
        :math:`\|A_{gg}\|_F`, with one standard error over the probes (delta method).
    eigenvalues, residuals : tuple of float
        As :class:`EigenResult` has them.
    converged : bool
        Whether all residuals came below the tolerance.
    """

    group: str
    n: int
    trace: float
    trace_stderr: float
    share: float
    frobenius_norm: float
    frobenius_stderr: float
    eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    converged: bool


@frozen(kw_only=True, eq=False)
class SweepResult(ShowsItself):
    r"""A sweep over groups of parameters.

    Parameters
    ----------
    by : str or tuple of str
        How the groups were made.
    rows : tuple of SweepRow
        In the order of the parameters.
    trace, trace_stderr : float
        The sum over the groups: of the whole operator where they cover it.
    frobenius_norms : Tensor, shape (G, G), float64
        :math:`\|A_{gh}\|_F`, estimated by probes of group h.
    coupling, coupling_stderr : float
        :math:`1 - \sum_g\|A_{gg}\|_F^2/\sum_{gh}\|A_{gh}\|_F^2`: 0 where the operator is block diagonal, and the share
        of its squared norm that a block-diagonal approximation leaves out.
    probes : int
        Probes of each group.
    num_matvecs : int
        Products used.
    seed : int
        Of probes and start vectors.
    converged : bool
        Whether all groups' eigenvalues have.
    error_covers : str
        In words, what the standard errors cover.
    info : ResultInfo or None
        Filled in by the driver.
    """

    by: str | tuple[str, ...]
    rows: tuple[SweepRow, ...]
    trace: float
    trace_stderr: float
    frobenius_norms: Tensor
    coupling: float
    coupling_stderr: float
    probes: int
    num_matvecs: int
    seed: int
    converged: bool
    error_covers: str = (
        "standard errors: the random probes; residuals: rounding in products and vectors. Sampling of the data is not "
        "included"
    )
    info: ResultInfo | None = None
