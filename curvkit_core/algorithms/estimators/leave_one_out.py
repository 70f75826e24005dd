r"""Low-rank approximations with one test vector left out, each for the price of small matrices [1]_.

An estimate that uses a vector twice, to find a range and to look outside it, is biased; one that leaves the vector out
of the range is not, and all k of them come from one factorisation by downdating.

References
----------
.. [1] Epperly, Tropp, Webber, "XTrace: Making the most of every sample in stochastic trace estimation", SIAM J. Matrix
   Anal. Appl. 45(1), 2024, 1-23.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["NystromLeftOut", "left_out_directions", "nystrom_left_out"]

_ASYMMETRY = (
    3.0  # times half the spectral norm of K - K^T, which is what noise does to the symmetric part's eigenvalues
)
_ROUNDING = 4.0  # times sqrt(k) eps |K|: k^2 independent roundings move an eigenvalue by 2 sqrt(k) of them


def left_out_directions(R: Tensor, eps: float) -> Tensor:
    r"""Unit columns :math:`s_i` orthogonal to all columns of R but the i-th: those of :math:`R^{-\top}`, normalised.

    With :math:`Y = QR`, the range of Y without column i is projected on by :math:`Q(I - s_i s_i^\top)Q^\top`.

    Parameters
    ----------
    R : Tensor, shape (k, k), float64
        Singular where Y has a lower rank: then any s_i outside Y's range serves, and singular values below `eps` times
        the largest count as that much.
    eps : float
        Unit roundoff of the vectors.
    """
    U, sigma, Vh = torch.linalg.svd(R)
    largest = float(sigma[0]) if len(sigma) else 0.0
    S = U @ (Vh / sigma.clamp_min(eps * largest if largest > 0.0 else 1.0)[:, None])
    unit: Tensor = S / S.norm(dim=0).clamp_min(torch.finfo(S.dtype).tiny)
    return unit


@frozen(kw_only=True, eq=False)
class NystromLeftOut:
    r"""The Nystrom approximation :math:`\hat A = F F^\top`, F = Y root, with each of its k columns left out.

    Leaving test vector i out is projecting its direction out: :math:`\hat A_i = F(I - q_i q_i^\top)F^\top`.

    Parameters
    ----------
    root : Tensor, shape (k, k)
    directions : Tensor, shape (k, k)
        Unit columns q_i.
    coordinates : Tensor, shape (k, k)
        Column i, g_i: :math:`\hat A\,\omega_i = F g_i`.
    forms : Tensor, shape (k,)
        :math:`\omega_i^\top A\,\omega_i`.
    indefinite : bool
        Whether A has a direction of negative curvature in the test vectors' span, beyond rounding and noise.
    """

    root: Tensor
    directions: Tensor
    coordinates: Tensor
    forms: Tensor
    indefinite: bool


def nystrom_left_out(K: Tensor, eps: float) -> NystromLeftOut:
    r"""Prepare the Nystrom approximation of a positive semidefinite A for leaving test vectors out.

    With :math:`H = (K + K^\top)/2` and :math:`X = (H + \tau I)^{-1}`, leaving vector i out takes
    :math:`X e_i e_i^\top X / X_{ii}` from X. The small ridge :math:`\tau` does what the paper does by shifting A, with
    no vector changed and nothing to be subtracted in the end; an estimate with the vector left out is unbiased for any
    :math:`\tau`. It is set by the noise that is seen, which for products in bfloat16 is far above rounding: of the
    symmetric part's eigenvalues, as much as half of :math:`\|K - K^\top\|_2`.

    Parameters
    ----------
    K : Tensor, shape (k, k), float64
        Omega^T Y with Y = A Omega: row i holds the products of test vector i.
    eps : float
        Unit roundoff of the vectors.
    """
    k = len(K)
    eigenvalues, U = torch.linalg.eigh((K + K.mT) / 2)
    size = float(eigenvalues.abs().max())
    asymmetry = float(torch.linalg.matrix_norm(K - K.mT, 2)) / 2
    noise = _ASYMMETRY * asymmetry + _ROUNDING * k**0.5 * eps * size
    indefinite = float(eigenvalues[0]) < -noise
    root = U / (eigenvalues + (2 * noise or 1.0)).abs().sqrt()  # abs: of use only where there is no estimate
    return NystromLeftOut(
        root=root,
        directions=root.mT / root.norm(dim=1),
        coordinates=root.mT @ K.mT,  # by K, not H: with noise K is not quite symmetric, and this stays unbiased
        forms=K.diagonal(),
        indefinite=indefinite,
    )
