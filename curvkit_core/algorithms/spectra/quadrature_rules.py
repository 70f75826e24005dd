r"""Gauss [1]_ and Gauss-Radau [2]_ rules out of Lanczos coefficients: nodes and weights of a probe's spectral measure.

.. math:: \int f\,d\mu \approx \sum_i w_i f(\theta_i), \quad T = S\Theta S^\top, \quad w_i = S_{1i}^2,

T the Jacobi matrix of the measure. The Radau rule has one node more, at a place that is given.

References
----------
.. [1] Golub, Welsch, Math. Comp. 23(106), 1969, 221-230.
.. [2] Golub, Meurant, "Matrices, Moments and Quadrature with Applications", Princeton, 2010, section 6.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gauss_rules", "jacobi_matrices", "node_spreads", "radau_rules"]


def gauss_rules(alpha: Tensor, beta: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gauss rules, one a row.

    Parameters
    ----------
    alpha, beta : Tensor, shape (p, m), float64
        Diagonals, and what follows each on the off-diagonal; of row j the first ``sizes[j]`` are in use.
    sizes : Tensor, shape (p,), int64
        At least 1.

    Returns
    -------
    (Tensor, Tensor, Tensor)
        Nodes, weights and the Ritz residuals :math:`\beta_m|S_{mi}|`, (p, m): nodes ascending, weights summing to 1.
        Unused places repeat the last node with weight and residual 0.
    """
    nodes, weights, residuals = torch.zeros_like(alpha), torch.zeros_like(alpha), torch.zeros_like(alpha)
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero()[:, 0]
        theta, S = torch.linalg.eigh(jacobi_matrices(alpha[rows, :size], beta[rows, : size - 1]))
        nodes[rows, :size], nodes[rows, size:] = theta, theta[:, -1:]
        weights[rows, :size] = S[:, 0].square()
        residuals[rows, :size] = beta[rows, size - 1 : size] * S[:, -1].abs()
    return nodes, weights, residuals


def node_spreads(nodes: Tensor, residuals: Tensor, sizes: Tensor) -> Tensor:
    """How far from a node the mass it stands for may lie: its residual, at most the mean distance to its neighbours.

    Between two neighbouring nodes the measure's distribution function lies between the sums of weights on either side
    (Chebyshev, Markov, Stieltjes); a node that has converged to an eigenvalue stands for that alone.
    """
    spreads = residuals.clone()
    for j, size in enumerate(sizes.tolist()):
        if size > 1:
            gaps = nodes[j, :size].diff()
            apart = torch.cat([gaps[:1], 0.5 * (gaps[:-1] + gaps[1:]), gaps[-1:]])
            spreads[j, :size] = torch.minimum(residuals[j, :size], apart)
    return spreads


def radau_rules(alpha: Tensor, beta: Tensor, sizes: Tensor, node: float) -> tuple[Tensor, Tensor]:
    """Gauss-Radau rules with one node at `node`, which lies below all nodes of the Gauss rules.

    Returns
    -------
    (Tensor, Tensor)
        Nodes and weights, (p, m + 1), as :func:`gauss_rules` has them.
    """
    last = torch.zeros((len(alpha), 1), dtype=alpha.dtype)
    alpha, beta = torch.cat([alpha, last], dim=1), torch.cat([beta, last], dim=1)
    for j, size in enumerate(sizes.tolist()):
        a, b = alpha[j].tolist(), beta[j].tolist()
        pivot = a[0] - node
        for i in range(1, size):  # pivots of T - node, positive: the last gives (T - node)^-1's corner
            pivot = a[i] - node - b[i - 1] * (b[i - 1] / pivot)
        alpha[j, size] = node + b[size - 1] * (b[size - 1] / pivot)
    nodes, weights, _ = gauss_rules(alpha, beta, sizes + 1)
    return nodes, weights


def jacobi_matrices(alpha: Tensor, off: Tensor) -> Tensor:
    """Tridiagonal matrices with diagonals `alpha` (r, m) and off-diagonals `off` (r, m - 1)."""
    return alpha.diag_embed() + off.diag_embed(1) + off.diag_embed(-1)
