r"""The damped inverse :math:`(A + \delta I)^{-1}` as an operator."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

from curvkit_core.algorithms.driver import run
from curvkit_core.algorithms.solves.preconditioner import Preconditioner
from curvkit_core.algorithms.solves.solve import Solve
from curvkit_core.errors import CurvkitError
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.results.types import SolveResult

__all__ = ["InverseOperator", "SolveError"]


class SolveError(CurvkitError):
    """A system inside an operator's product was not solved to its tolerance.

    Attributes
    ----------
    result : SolveResult
        What was reached.
    """

    def __init__(self, message: str, result: SolveResult) -> None:
        super().__init__(message)
        self.result = result


class InverseOperator(CurvatureOperator):
    r"""The damped inverse :math:`(A + \delta I)^{-1}`; a product is a solve, by conjugate gradients or MINRES.

    Symmetric and linear to the tolerance: every product solves to a residual of `tol` times the vector's norm, or
    raises. An algorithm on it counts its products, not A's.

    Parameters
    ----------
    base : CurvatureOperator
        A: symmetric, and positive definite with the damping unless `method` is ``"minres"``.
    damping : float, at least 0
        delta.
    tol : float, above 0
        Relative residual of every solve. An algorithm that asks for errors below it is misled.
    max_matvecs : int, at least 1
        Products of A for each vector.
    method : {"cg", "minres"}
        As in :func:`curvkit_core.algorithms.solves.solve`.
    preconditioner : Preconditioner or None
        A positive definite approximation of :math:`A + \delta I`, for every solve.

    Raises
    ------
    ValueError
        If A is not symmetric or not one fixed matrix, or an option is out of range.
    """

    def __init__(
        self,
        base: CurvatureOperator,
        *,
        damping: float = 0.0,
        tol: float = 1e-10,
        max_matvecs: int = 1000,
        method: str = "cg",
        preconditioner: Preconditioner | None = None,
    ) -> None:
        if not base.symmetric:
            msg = f"the inverse of {base!r} is found by Krylov methods: expected a symmetric operator."
            raise ValueError(msg)
        super().__init__(base.space, symmetric=True, problem=base.problem)
        self.base = base
        self.deterministic = base.deterministic
        self.algorithm = Solve(method=method, damping=damping, tol=tol, max_matvecs=max_matvecs)
        self.preconditioner = preconditioner
        self.num_matvecs = 0

    @property
    def damping(self) -> float:
        """delta."""
        return self.algorithm.damping

    def rows_product(self, V: Tensor) -> Tensor:
        """Solve for each row.

        Raises
        ------
        SolveError
            If a row was not solved: which, how far it came, and the mend. ``num_matvecs`` counts A's products so far.
        """
        algorithm = attrs.evolve(self.algorithm, max_matvecs=self.algorithm.max_matvecs * len(V))
        inputs: dict[str, Any] = {"b": V}
        if self.preconditioner is not None:
            inputs["preconditioner"] = self.preconditioner
        result: SolveResult = run(algorithm, self.base, inputs=inputs)
        self.num_matvecs += result.num_matvecs
        if result.info is not None and result.info.interrupted == "keyboard":
            raise KeyboardInterrupt
        if not bool(result.converged.all()):
            raise SolveError(self._failure(V, result), result)
        return result.solution

    def _failure(self, V: Tensor, result: SolveResult) -> str:
        row = int((~result.converged).nonzero()[0])
        relative = float(result.residuals[row] / self.space.norms(V[row : row + 1])[0])
        status = result.status[row]
        seen = f"relative residual {relative:.2g} after {result.num_matvecs} products of {self.base!r}"
        mend = {
            "breakdown": f"it met the curvature {float(result.curvatures[row]):.3g}, so it is not positive definite: "
            f"pass a damping above {self.damping:.3g} or method='minres', or take the GGN in the Hessian's place.",
            "incompatible": f"it is singular, and v has a part outside its range: pass a damping above "
            f"{self.damping:.3g}.",
            "preconditioner": "the preconditioner is not positive definite.",
            "stagnated": f"rounding stands in the way of tol={self.algorithm.tol:.2g}: pass a larger tol or damping.",
            "max_matvecs": f"max_matvecs={self.algorithm.max_matvecs} is too small: pass more, or a larger damping.",
        }[status]
        return f"(A + {self.damping:.3g} I)^-1 v was not found for row {row} ({status}): {seen}; {mend}"
