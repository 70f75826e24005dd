"""The Jacobian and its transpose against torch.func; what they compose to."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, Case, dense_truth, flat_outputs, relative, tied_mlp
from torch import Tensor

from curvkit_core import CallableLoss, CurvatureOperator, GGNOperator, LambdaOperator, Problem, eigsh
from curvkit_core.operators import JacobianOperator, LinearMap

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match


def dense_jacobian(case: Case) -> Tensor:
    outputs, flat = flat_outputs(case)
    J = torch.func.jacfwd(outputs)(flat, case.inputs)
    return J.reshape(-1, len(flat))


@pytest.mark.parametrize("name", [name for name in CASES if name != "without-logits"])
@pytest.mark.parametrize("options", [{}, {"strategy": "reverse", "cache": "keep"}, {"strategy": "lean"}])
def test_products_match_the_dense_jacobian(name: str, options: dict[str, str]) -> None:
    """J v and J^T u, for every cut of the data; a transpose that has lost a batch is told apart."""
    case = CASES[name]()
    rows = len(case.inputs)
    expected = dense_jacobian(case)
    for problem in (case.problem(), case.problem((rows - 3, 2, 1)), case.problem(microbatch_size=2)):
        J = JacobianOperator(problem, **options)
        assert J.shape == expected.shape
        V, U = torch.randn(3, J.shape[1], dtype=F64), torch.randn(2, J.shape[0], dtype=F64)
        assert relative(J.apply(V), V @ expected.mT) <= TOLERANCE
        assert relative(J.T.apply(U), U @ expected) <= TOLERANCE
        U[:, : J.shape[0] // rows] = 0.0
        assert relative(J.T.apply(U), U @ expected) <= TOLERANCE
        assert relative(J.T.apply(U.flip(1)), U @ expected) > 1e3 * TOLERANCE
    assert relative(J.to_dense(), expected) <= TOLERANCE
    assert relative(J.T.to_dense(), expected.mT) <= TOLERANCE
    assert J.T.T is J


def test_outputs_of_several_tensors_are_refused() -> None:
    """Hidden states and a head's weight are no rows of data."""
    problem = CASES["without-logits"]().problem()
    with pytest.raises(TypeError, match=r"LinearCrossEntropyLoss hands over 2 tensors.*outputs are \(logits,\)"):
        JacobianOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)


def test_compositions_are_those_of_the_matrices() -> None:
    """J^T J and J J^T are symmetric operators; J^T H J over the units is the GGN; the rest is rectangular."""
    case = CASES["regression-mlp"]()
    J = JacobianOperator(case.problem((6, 7)))
    dense = dense_jacobian(case)
    gram, kernel = J.T @ J, J @ J.T
    for product, expected in ((gram, dense.mT @ dense), (kernel, dense @ dense.mT)):
        assert isinstance(product, CurvatureOperator)
        assert product.symmetric
        assert relative(product.to_dense(), expected) <= TOLERANCE
    # squared error over D = 2 elements has the output Hessian 2/D I = I
    assert relative((gram * (1 / case.units)).to_dense(), dense_truth(case).ggn) <= TOLERANCE
    M = torch.randn(dense.shape[0], dense.shape[0], dtype=F64)
    op = LambdaOperator(lambda v: M @ v, len(M), dtype=F64, symmetric=False, adjoint=lambda v: M.mT @ v)
    left, right = J.T @ op, op @ J
    assert isinstance(left, LinearMap)
    assert not isinstance(left, CurvatureOperator)
    assert relative(left.to_dense(), dense.mT @ M) <= TOLERANCE
    assert relative(left.T.to_dense(), M.mT @ dense) <= TOLERANCE
    assert relative((left @ right).to_dense(), dense.mT @ M @ M @ dense) <= TOLERANCE
    assert not (left @ right).symmetric
    assert relative((left @ right).T.to_dense(), (dense.mT @ M @ M @ dense).mT) <= TOLERANCE
    with pytest.raises(ValueError, match="JacobianOperator.* @ JacobianOperator.*: expected operators of one size"):
        J @ J


def test_nonzero_eigenvalues_of_the_gram_and_the_kernel_are_the_same() -> None:
    J = JacobianOperator(CASES["regression-mlp"]().problem((6, 7)))
    gram, kernel = (eigsh(A, k=5, tol=1e-10, seed=0).eigenvalues for A in (J.T @ J, J @ J.T))
    assert (gram - kernel).abs().max() <= 1e-9 * gram[0]


def test_scipy_sees_the_rectangle_and_its_adjoint() -> None:
    case = tied_mlp()
    J = JacobianOperator(case.problem())
    dense = dense_jacobian(case).numpy()
    exported = J.to_scipy()
    X, Y = torch.randn(J.shape[1], 2, dtype=F64).numpy(), torch.randn(J.shape[0], 2, dtype=F64).numpy()
    assert exported.shape == J.shape
    assert abs(exported @ X - dense @ X).max() <= 1e-12
    assert abs(exported @ X[:, 0] - dense @ X[:, 0]).max() <= 1e-12
    assert abs(exported.H @ Y - dense.T @ Y).max() <= 1e-12


def test_a_restricted_problem_gives_columns() -> None:
    case = tied_mlp()
    problem = case.problem()
    entry = problem.parameters.entries[2]
    J = JacobianOperator(problem.restrict(entry.name))
    assert relative(J.to_dense(), dense_jacobian(case)[:, entry.place]) <= TOLERANCE


def test_vectors_of_the_wrong_length_are_named() -> None:
    J = JacobianOperator(tied_mlp().problem())
    m, n = J.shape
    with pytest.raises(ValueError, match=rf"V has shape \(1, {m}\): expected \({n},\)"):
        J @ torch.ones(m, dtype=F64)
    with pytest.raises(ValueError, match=rf"V has shape \({n},\): expected rows of vectors, \(k, {n}\)"):
        J.apply(torch.ones(n, dtype=F64))


def test_what_has_no_jacobian_is_refused_with_the_mend() -> None:
    """A loss that is the whole function; several output tensors; other data than at construction; no data."""
    case = tied_mlp()
    own = Problem(case.model, case.batches(), CallableLoss(lambda model, batch: model(batch[0]).mean()))
    with pytest.raises(TypeError, match="CallableLoss does not tell where the model ends"):
        JacobianOperator(own)

    class Twice(type(case.loss)):
        def outputs(self, model: object, batch: object) -> tuple[Tensor, ...]:
            return super().outputs(model, batch) * 2

    with pytest.raises(TypeError, match="Twice hands over 2 tensors: the Jacobian's rows"):
        JacobianOperator(Problem(case.model, case.batches(), Twice()))
    with pytest.raises(ValueError, match="gave no outputs: pass at least one batch"):
        JacobianOperator(Problem(case.model, [], case.loss))
    problem = case.problem((6, 7), preflight="off")
    J = JacobianOperator(problem)
    problem.batches = case.batches((7, 6))
    with pytest.raises(ValueError, match="batch 0 has 21 outputs where it had 18 when the operator was built"):
        J @ torch.ones(J.shape[1], dtype=F64)
    problem.batches = case.batches((6, 7))[:1]
    with pytest.raises(ValueError, match="the data gave 1 microbatches where there were 2"):
        J @ torch.ones(J.shape[1], dtype=F64)
    with pytest.raises(TypeError, match="problem is a int: expected a curvkit_core.Problem"):
        JacobianOperator(3)


def test_the_gram_is_a_ggn_of_half_the_square() -> None:
    """Two paths to one matrix: J^T J, and the GGN of the squared error over its 2/D."""
    case = CASES["regression-mlp"]()
    problem = case.problem((6, 7))
    J = JacobianOperator(problem)
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    assert relative((J.T @ J) @ v, case.units * (GGNOperator(problem) @ v)) <= TOLERANCE
