"""The damped inverse as an operator: against the dense inverse; products that cannot be had raise."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, dense_truth, relative, symmetric_matrix, tied_mlp

from curvkit_core import (
    CurvkitError,
    GGNOperator,
    HessianOperator,
    LambdaOperator,
    NystromPreconditioner,
    eigsh,
    nystrom,
    trace,
)
from curvkit_core.algorithms import InverseOperator, SolveError


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_products_match_the_dense_inverse(name: str, kind: str) -> None:
    """(A + delta I)^-1 to the tolerance over the smallest eigenvalue; another damping is told apart."""
    case = CASES[name]()
    dense = getattr(dense_truth(case), kind)
    damping = 0.01 - 1.1 * min(0.0, float(torch.linalg.eigvalsh(dense)[0]))
    expected = torch.linalg.inv(dense + damping * torch.eye(len(dense), dtype=F64))
    operator = InverseOperator(
        {"ggn": GGNOperator, "hessian": HessianOperator}[kind](case.problem()), damping=damping, tol=1e-13
    )
    assert operator.symmetric
    V = torch.randn(4, len(dense), dtype=F64, generator=torch.Generator().manual_seed(0))
    found = operator.apply(V)
    assert relative(found, V @ expected) <= 1e-10
    other = torch.linalg.inv(dense + 1.01 * damping * torch.eye(len(dense), dtype=F64))
    assert relative(found, V @ other) > 1e-4
    assert (operator.apply(V) @ V.mT - V @ operator.apply(V).mT).abs().max() <= 1e-9 * found.norm()  # L2


def test_it_undoes_the_shifted_operator_and_serves_algorithms() -> None:
    """A times its inverse is the identity; its top eigenvalue is 1/(smallest + delta), its trace the dense one's."""
    G = GGNOperator(tied_mlp().problem())
    inverse = InverseOperator(G, damping=0.1, tol=1e-12)
    v = torch.randn(G.n, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert relative((G.shift(0.1) @ inverse) @ v, v) <= 1e-10
    assert relative((inverse @ G.shift(0.1)) @ v, v) <= 1e-10
    top = eigsh(inverse, k=1, seed=0, tol=1e-8).eigenvalues[0]
    assert abs(float(top) - 10.0) <= 1e-6  # the unused layer has curvature zero
    dense = torch.linalg.inv(G.shift(0.1).to_dense())
    found = trace(inverse, num_matvecs=90, seed=0)
    assert abs(found.estimate - float(dense.trace())) <= 4.5 * found.stderr + 1e-8
    assert inverse.num_matvecs > 90


def test_products_that_are_not_found_raise_with_the_mend() -> None:
    """Indefinite, out of products, below rounding: which row, how far, what to do; never a number."""
    M = symmetric_matrix(torch.tensor([-0.5, 1.0, 2.0, 1e4], dtype=F64))
    op = LambdaOperator(lambda v: M @ v, 4, dtype=F64)
    with pytest.raises(
        SolveError, match=r"row 0 \(breakdown\): .* it met the curvature -.*: pass a damping above 0"
    ) as caught:
        InverseOperator(op) @ torch.linalg.eigh(M).eigenvectors[:, 0]
    assert isinstance(caught.value, CurvkitError)
    assert caught.value.result.status == ("breakdown",)
    with pytest.raises(SolveError, match=r"row 0 \(max_matvecs\): relative residual .* max_matvecs=2 is too small"):
        InverseOperator(op, damping=1.0, max_matvecs=2) @ torch.ones(4, dtype=F64)
    with pytest.raises(SolveError, match=r"row 0 \(stagnated\): .* rounding stands in the way of tol=1e-30"):
        InverseOperator(op, damping=1.0, tol=1e-30) @ torch.ones(4, dtype=F64)
    with pytest.raises(ValueError, match="the inverse of LambdaOperator.*: expected a symmetric operator"):
        InverseOperator(LambdaOperator(lambda v: v, 3, symmetric=False))


def test_minres_inverts_what_is_indefinite_and_a_preconditioner_saves_products() -> None:
    """Where conjugate gradients break down; the same products, fewer of them; what cannot be solved is said."""
    values = torch.cat([torch.logspace(-2, 0, 20, dtype=F64), torch.tensor([-1.0, -0.3], dtype=F64)])
    M = symmetric_matrix(values)
    op = LambdaOperator(lambda v: M @ v, 22, dtype=F64)
    V = torch.randn(2, 22, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert relative(InverseOperator(op, method="minres", tol=1e-12).apply(V), V @ torch.linalg.inv(M)) <= 1e-9
    singular = LambdaOperator(lambda v: torch.cat([v[:3], 0.0 * v[3:]]), 4, dtype=F64)
    with pytest.raises(SolveError, match=r"row 0 \(incompatible\): .* it is singular, .*: pass a damping above 0"):
        InverseOperator(singular, method="minres") @ torch.ones(4, dtype=F64)
    wide = torch.logspace(-6, 0, 200, dtype=F64)
    psd = LambdaOperator(lambda v: wide * v, 200, dtype=F64)
    b = torch.randn(200, dtype=F64, generator=torch.Generator().manual_seed(1))
    P = NystromPreconditioner.of(nystrom(psd, rank=60, seed=0), damping=1e-4)
    plain, quick = InverseOperator(psd, damping=1e-4), InverseOperator(psd, damping=1e-4, preconditioner=P)
    expected = b / (wide + 1e-4)
    assert relative(plain @ b, expected) <= 1e-6
    assert relative(quick @ b, expected) <= 1e-6
    assert 2 * quick.num_matvecs < plain.num_matvecs


def test_ctrl_c_inside_a_product_is_ctrl_c() -> None:
    """An interruption is not reported as a system that could not be solved."""

    def interrupted(v: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InverseOperator(LambdaOperator(interrupted, 3)) @ torch.ones(3)
