r"""The precision of a Laplace posterior per unit of data, :math:`G + D + w\,U^\top\Lambda U`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvkit_core import CurvatureOperator, GGNOperator, Problem, load_result, match_names
from laplace_precision.config import PrecisionConfig
from laplace_precision.prior import LowRankPrior


class PrecisionOperator(CurvatureOperator):
    r"""The Hessian of a log posterior, its likelihood's part by Gauss-Newton [1]_: :math:`G + D + w\,U^\top\Lambda U`.

    D is the weight decay of the parameters that have one, and U and :math:`\Lambda` are eigenpairs of an earlier task's
    curvature, as in an online Laplace approximation [2]_. A product costs one of the GGN and 2 r n multiplications.

    Parameters
    ----------
    problem : Problem
        This task's data.
    prior : LowRankPrior
        In the unit of the mean loss.

    References
    ----------
    .. [1] MacKay, Neural Computation 4(3), 1992, 448-472.
    .. [2] Ritter, Botev and Barber, NeurIPS 31, 2018.
    """

    def __init__(self, problem: Problem, prior: LowRankPrior) -> None:
        super().__init__(problem.space, symmetric=True, problem=problem)
        self.likelihood = GGNOperator(problem)
        self.prior = prior

    def rows_product(self, V: Tensor) -> Tensor:
        """G v + P v."""
        return self.prior.times(self.space, V).add_(self.likelihood.rows_product(V))


def make_prior(
    problem: Problem,
    *,
    weight_decay: float,
    decayed: Sequence[str] = ("*",),
    eigenpairs: Any = None,
    weight: float = 1.0,
) -> LowRankPrior:
    """Make a prior for the parameters of `problem`.

    Parameters
    ----------
    problem : Problem
    weight_decay : float
        Of the parameters that `decayed` names.
    decayed : sequence of str
        Globs.
    eigenpairs : object or None
        With ``eigenvalues`` (r,) and ``eigenvectors`` (r, m), over these parameters or over all of the model.
    weight : float
        What the eigenvalues are multiplied with.

    Raises
    ------
    ValueError
        If the eigenvectors are of another size.
    """
    space = problem.space
    chosen = match_names(*decayed)
    diagonal = space.zeros(1)[0]
    for entry in problem.parameters.entries:
        if any(chosen(alias, entry.parameter) for alias in entry.aliases):
            diagonal[entry.place] = weight_decay
    U, c = space.zeros(0), torch.zeros(0, dtype=torch.float64)
    if eigenpairs is not None:
        U = space.check(_on(problem, eigenpairs.eigenvectors), "the earlier task's eigenvectors")
        c = weight * eigenpairs.eigenvalues.double().clamp_min(0.0)  # a GGN's negative ones are rounding
    return LowRankPrior(diagonal=diagonal, U=U, c=c)


def _on(problem: Problem, vectors: Tensor) -> Tensor:
    """The vectors' parts over the problem's parameters, where they are over all of the model."""
    whole = dict(_places(problem))
    total = sum(place.stop - place.start for place in whole.values())
    if vectors.shape[-1] == problem.parameters.n or vectors.shape[-1] != total:
        return vectors
    return torch.cat([vectors[:, whole[entry.raw_names[0]]] for entry in problem.parameters.entries], dim=1)


def _places(problem: Problem) -> Iterator[tuple[str, slice]]:
    offset = 0
    for name, parameter in problem.model.named_parameters():
        yield name, slice(offset, offset + parameter.numel())
        offset += parameter.numel()


def build(problem: Problem, config: PrecisionConfig) -> PrecisionOperator:
    """Make the operator from a run file's table."""
    prior = make_prior(
        problem,
        weight_decay=config.weight_decay,
        decayed=config.decayed,
        eigenpairs=None if config.earlier is None else load_result(Path(config.earlier)),
        weight=config.earlier_weight,
    )
    return PrecisionOperator(problem, prior)
