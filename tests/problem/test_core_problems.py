"""core/digits-mlp on the real digits, against a dense eigendecomposition; core/python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from cases import relative
from torch import Tensor
from torch.nn import functional

from curvkit_core import GGNOperator, HessianOperator, Problem, eigsh, spectral_density, trace
from curvkit_core.problem import digits_mlp, python_factory
from curvkit_core.problem.digits_config import DigitsMLPConfig
from curvkit_core.problem.python_config import PythonProblemConfig

SMALL = DigitsMLPConfig(hidden=(4,), epochs=5, examples=300, batch_size=128, dtype="float64")


@pytest.fixture(scope="module")
def small() -> Problem:
    return digits_mlp.build(SMALL)


def dense_matrices(problem: Problem) -> dict[str, Tensor]:
    """Hessian and GGN of the network's mean cross-entropy by torch.func, on the 300 digits at once."""
    images = torch.cat([b[0] for b in problem.batches])
    labels = torch.cat([b[1] for b in problem.batches])
    named = {name: p.detach() for name, p in problem.model.named_parameters()}
    flat = torch.cat([p.reshape(-1) for p in named.values()])

    def logits(theta: Tensor) -> Tensor:
        pieces = theta.split([p.numel() for p in named.values()])
        values = {k: v.view(p.shape) for (k, p), v in zip(named.items(), pieces, strict=True)}
        return torch.func.functional_call(problem.model, values, (images,))

    H = torch.func.jacfwd(torch.func.grad(lambda t: functional.cross_entropy(logits(t), labels)))(flat)
    J = torch.func.jacrev(logits)(flat)
    p = torch.softmax(logits(flat), dim=1)
    # sum over examples of J^T (diag p - p p^T) J
    weighted = p[:, :, None] * J - p[:, :, None] * (p[:, None] @ J)
    return {"hessian": H, "ggn": torch.einsum("ncp,ncq->pq", J, weighted) / len(labels)}


def test_spectrum_of_the_digits_network_agrees_with_a_dense_decomposition(small: Problem) -> None:
    """Eigenvalues to 1e-6 relative, trace within 4 standard errors, density of mass 1."""
    dense = dense_matrices(small)
    for kind, op in (("hessian", HessianOperator(small)), ("ggn", GGNOperator(small))):
        spectrum = torch.linalg.eigvalsh(dense[kind])
        top = eigsh(op, k=10, tol=1e-8, seed=0)
        assert top.converged.all()
        assert (top.eigenvalues / spectrum.flip(0)[:10] - 1).abs().max() <= 1e-6
        estimate = trace(op, num_matvecs=99, seed=0)
        truth = float(spectrum.sum())
        assert abs(estimate.estimate - truth) <= 4 * estimate.stderr
        assert estimate.stderr <= 0.02 * truth
        density = spectral_density(op, num_probes=4, steps=30, seed=0)
        assert float(torch.trapezoid(density.density, density.grid)) == pytest.approx(1.0, abs=1e-6)
        assert density.nodes.min() >= spectrum[0] - 1e-9
        assert density.nodes.max() <= spectrum[-1] + 1e-9


def test_the_two_matrices_are_told_apart(small: Problem) -> None:
    """Negative control: the GGN is not the Hessian here."""
    dense = dense_matrices(small)
    assert relative(dense["hessian"], dense["ggn"]) > 0.01


def test_training_repeats_and_leaves_the_random_state_alone(small: Problem) -> None:
    state = torch.get_rng_state()
    again = digits_mlp.build(SMALL)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(small.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.grad is None
    other = digits_mlp.build(DigitsMLPConfig(hidden=(4,), epochs=5, examples=300, dtype="float64", seed=1))
    assert not torch.equal(next(other.model.parameters()), next(again.model.parameters()))


def test_the_default_network_is_trained() -> None:
    """What the demo shows is a network that has learned: all training digits right, nine of ten held out."""
    description = digits_mlp.build(DigitsMLPConfig()).description
    assert "accuracy 100.0%" in description
    assert 85.0 < float(description.split("held out: ")[1].split("%")[0]) < 100.0


@pytest.fixture
def user_module(tmp_path: Path) -> Path:
    (tmp_path / "user_problem_a.py").write_text(
        "import torch\n"
        "from curvkit_core import Problem, MSELoss\n"
        "def build(width=1):\n"
        "    model = torch.nn.Linear(2, width)\n"
        "    return Problem(model, [(torch.ones(3, 2), torch.zeros(3, width))], MSELoss())\n"
        "def nothing():\n"
        "    return None\n"
        "number = 3\n"
    )
    return tmp_path


def test_python_problem_calls_the_users_function(user_module: Path) -> None:
    path = list(sys.path)
    problem = python_factory.build(
        PythonProblemConfig(factory="user_problem_a:build", path=str(user_module), options={"width": 2})
    )
    assert problem.parameters.n == 6
    assert sys.path == path


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("user_problem_b:build", "no module 'user_problem_b' in"),
        ("user_problem_a:make", "has no 'make'"),
        ("user_problem_a:number", "is a int: expected a function that returns a Problem"),
        ("user_problem_a:nothing", "returned a NoneType: expected a curvkit_core.Problem"),
    ],
)
def test_python_problem_names_what_is_wrong(user_module: Path, factory: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        python_factory.build(PythonProblemConfig(factory=factory, path=str(user_module)))


def test_python_problem_wants_module_and_function() -> None:
    with pytest.raises(ValueError, match="factory='my_problem': expected 'module:function'"):
        PythonProblemConfig(factory="my_problem")
