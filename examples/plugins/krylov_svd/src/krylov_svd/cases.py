"""What the conformance checks try the algorithm with, and what its result claims, held against a dense matrix."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvkit_core.testing import Case, Record
from krylov_svd.result import SVDResult

EPS = torch.finfo(torch.float64).eps


def claims(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: SVDResult, record: Record) -> None:
    """Unit vectors, A^T u = sigma v, the residuals those of A v - sigma u; in the end the largest ones are found."""
    sigma, U, V = result.singular_values[:, None], result.left, result.right
    if not len(sigma):
        return
    truth = torch.linalg.svdvals(matrix)
    rounding = 1e3 * EPS * max(float(truth[0]), 1e-300)
    record.at_most("U U^T less I", float((U @ U.mT - torch.eye(len(U), dtype=U.dtype)).abs().max()), 1e-8)
    record.at_most("a right vector's norm less 1", float((V.norm(dim=1) - 1).abs().max()), 1e-8)
    record.at_most("|A^T u - sigma v|", float((U @ matrix - sigma * V).norm(dim=1).max()), rounding)
    actual = (V @ matrix.mT - sigma * U).norm(dim=1)
    record.at_most("a residual beyond the one that is claimed", float((actual - result.residuals).max()), rounding)
    if bool(result.residuals.isfinite().all()):
        # q = 4 and a block of ten: far within the paper's 1 + epsilon of the next singular value, here 1e-3
        short = float((truth[: len(sigma)] - result.singular_values).abs().max())
        record.at_most("the distance to the largest singular values", short, 1e-3 * float(truth[0]))


CASES = [Case(component="krylov/svd", options={"k": 4, "oversample": 6, "depth": 4}, truth=claims)]
