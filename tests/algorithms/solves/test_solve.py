"""Linear systems by the named solver, as a run file has them; states of solvers and their kin through a checkpoint."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp
from torch import Tensor

from curvkit_core import GGNOperator, HessianOperator, LambdaOperator, NystromPreconditioner, nystrom, solve
from curvkit_core.algorithms import ConditionNumber, ConjugateGradients, MatrixFunction, Minres, Nystrom, Solve, run
from curvkit_core.algorithms.state_codec import decode_state, encode_state


def through_a_checkpoint(state: Any, algorithm: Any, op: LambdaOperator) -> Any:
    """The state taken apart as a checkpoint writes it, and put together again of other tensors."""
    parts = encode_state(state)
    tensors = {path: tensor.clone() for path, tensor in parts.tensors.items()}
    rows = {path: [basis.rows(op.space, 0, basis.size).clone()] for path, basis in parts.bases.items()}
    document = json.loads(json.dumps(parts.document))
    return decode_state(document, algorithm, op.space, tensors.__getitem__, rows.__getitem__)


@pytest.mark.parametrize(
    "algorithm",
    [
        Solve(method="cg", tol=1e-10, damping=1e-3),
        Solve(method="minres", tol=1e-10, damping=1e-3),
        Nystrom(rank=8, seed=0),
        MatrixFunction(function="log", steps=15, seed=0),
        MatrixFunction(function="sqrt", steps=15, seed=0, basis_storage="host", basis_dtype="float32"),
        ConditionNumber(ncv=8, seed=0, max_matvecs=60),
    ],
    ids=lambda a: f"{type(a).__name__}-{getattr(a, 'method', '') or getattr(a, 'function', '')}",
)
def test_a_checkpointed_state_goes_on_bit_for_bit(algorithm: Any) -> None:
    """A4: stopped at several products; a preconditioner comes with the state."""
    M = symmetric_matrix(torch.logspace(-3, 0, 20, dtype=F64))
    op = LambdaOperator(lambda v: M @ v.clone(), 20, dtype=F64)
    inputs: dict[str, Any] = {}
    if isinstance(algorithm, Solve):
        inputs["b"] = torch.randn(3, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
        inputs["preconditioner"] = NystromPreconditioner.of(nystrom(op, rank=5, seed=0), damping=1e-3)
    results = []
    for stops in ((), (0, 1, 2, 7, 12, 20)):
        state, step = algorithm.init(op.space, **inputs), 0
        while (V := algorithm.ask(state, 2)) is not None:
            if step in stops:
                state = through_a_checkpoint(state, algorithm, op)
            state = algorithm.tell(op.space, state, V, op.apply(V))
            step += 1
        results.append(algorithm.result(op.space, state))
    tensors = [f.name for f in attrs.fields(type(results[0])) if isinstance(getattr(results[0], f.name), Tensor)]
    assert tensors
    for name in tensors:
        whole, resumed = (getattr(r, name) for r in results)
        assert torch.equal(whole.nan_to_num(), resumed.nan_to_num()), name
    assert results[0].num_matvecs == results[1].num_matvecs


def test_the_method_is_the_class() -> None:
    """Nothing is added but the name and the seed."""
    M = symmetric_matrix(torch.logspace(-1, 0, 12, dtype=F64))
    op = LambdaOperator(lambda v: M @ v, 12, dtype=F64)
    b = torch.ones(12, dtype=F64)
    for method, kind in (("cg", ConjugateGradients), ("minres", Minres)):
        found = solve(op, b, method=method, tol=1e-9, damping=0.1)
        twin = run(kind(tol=1e-9, damping=0.1), op, inputs={"b": b})
        assert torch.equal(found.solution, twin.solution)
        assert (found.method, found.seed, found.num_matvecs) == (method, None, twin.num_matvecs)


def test_without_a_right_hand_side_one_is_drawn() -> None:
    """As in a run file: from the seed, recorded, and a Newton system of the Hessian by MINRES."""
    H = HessianOperator(tied_mlp().problem())
    result = solve(H, method="minres", damping=0.01, seed=5)
    b = H.space.random("gaussian", 5, 0, 1)[0]
    assert result.seed == result.info.seed == 5
    assert result.status == ("converged",)
    assert float((b - H.shift(0.01) @ result.solution).norm()) <= 1.01e-6 * float(b.norm())
    assert solve(GGNOperator(tied_mlp().problem()), damping=0.1).seed is not None


def test_methods_are_listed() -> None:
    op = LambdaOperator(lambda v: v, 3)
    with pytest.raises(ValueError, match=r"'method' must be in \('cg', 'minres'\)"):
        solve(op, torch.ones(3), method="gmres")
    with pytest.raises(ValueError, match="'rhs' must be in"):
        solve(op, rhs="gradient")
