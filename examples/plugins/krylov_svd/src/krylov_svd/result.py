"""Singular triplets, and how well each is known."""

from attrs import frozen
from torch import Tensor

from curvkit_core.results import ResultInfo


@frozen(kw_only=True, eq=False)
class SVDResult:
    r"""Singular triplets :math:`A v_i \approx \sigma_i u_i`, :math:`A^\top u_i = \sigma_i v_i`.

    Parameters
    ----------
    singular_values : Tensor, shape (k,), float64 on the CPU
        Descending: sigma_i = |A^T u_i|.
    left, right : Tensor, shape (k, n)
        u and v: unit rows; u is an orthonormal set.
    residuals : Tensor, shape (k,), float64 on the CPU
        |A v_i - sigma_i u_i|: a singular value of A lies within it of sigma_i. inf where no product was spent on it.
    num_matvecs : int
        Products used.
    seed : int
        Of the start block.
    error_covers : str
        In words, what the residuals cover.
    info : ResultInfo or None
        Filled in by the driver.
    """

    singular_values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor
    num_matvecs: int
    seed: int
    error_covers: str = (
        "what is left of each triplet, rounding included; a singular value that the block missed is in no residual"
    )
    info: ResultInfo | None = None
