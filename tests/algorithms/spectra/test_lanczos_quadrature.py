"""Lanczos from many probes in lockstep: each rule is its own probe's, whatever shares its products."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import Basis, run
from curvkit_core.algorithms.spectra.lanczos_quadrature import LanczosQuadrature, LanczosRules
from curvkit_core.algorithms.spectra.quadrature_rules import gauss_rules, node_spreads, radau_rules

EPS = torch.finfo(F64).eps
N = 24
SPECTRA = {
    "spread": torch.linspace(-3, 5, N, dtype=F64),
    "clustered": torch.cat([torch.linspace(0.99, 1.01, N - 2, dtype=F64), torch.tensor([-4.0, 40.0], dtype=F64)]),
    "repeated": torch.tensor([2.0] * 12 + [-1.0] * 12, dtype=F64),
    "low-rank": torch.cat([torch.zeros(N - 3, dtype=F64), torch.tensor([1.0, 2.0, 3.0], dtype=F64)]),
    "negative": -(torch.linspace(1, 9, N, dtype=F64) ** 2),
    "decades": 10.0 ** torch.linspace(-12, 3, N, dtype=F64),
    "zero": torch.zeros(N, dtype=F64),
}


def operator(A: Tensor, calls: list[int] | None = None) -> LambdaOperator:
    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype)


def measures(A: Tensor, op: LambdaOperator, kind: str, seed: int, probes: int) -> tuple[Tensor, Tensor]:
    """The probes' whole measures from the dense decomposition: eigenvalues, and (u^T z)^2 / |z|^2 a row a probe."""
    theta, U = torch.linalg.eigh(A)
    z = op.space.random(kind, seed, 0, probes)
    return theta, (z @ U).square() / z.square().sum(1, keepdim=True)


def worst_moment(rules: LanczosRules, theta: Tensor, mass: Tensor) -> float:
    """Largest gap of Chebyshev moments up to each rule's degree; they are at most 1, and span the polynomials."""
    scale = float(theta.abs().max()) or 1.0
    worst = 0.0
    for j in range(len(mass)):
        degree = int(rules.degrees[j].clamp_max(2 * N))
        for k in range(degree + 1):
            truth = (mass[j] * torch.cos(k * (theta / scale).clamp(-1, 1).acos())).sum()
            found = (rules.weights[j] * torch.cos(k * (rules.nodes[j] / scale).clamp(-1, 1).acos())).sum()
            worst = max(worst, abs(float(found - truth)))
    return worst


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_rules_are_exact_to_their_degree(name: str, kind: str) -> None:
    """m steps give all polynomials up to degree 2m - 1 of the probe's own measure; told from weights off by 1e-3."""
    A = symmetric_matrix(SPECTRA[name])
    op = operator(A)
    rules = run(LanczosQuadrature(num_probes=3, steps=7, probes=kind, seed=5), op)
    theta, mass = measures(A, op, kind, 5, 3)
    # T_k is k^2-Lipschitz at the ends, k <= 2N: nodes off by 10 eps |A| move a moment by 4 N^2 times that
    tol = 40 * N**2 * EPS
    if name in ("zero", "repeated", "low-rank"):  # exhausted early: the whole measure, rounding cut off at 10 eps |A|
        assert rules.degrees.isinf().all()
    else:
        assert rules.degrees.tolist() == [13.0] * 3
    assert worst_moment(rules, theta, mass) <= tol
    assert worst_moment(attrs.evolve(rules, weights=rules.weights * 1.001), theta, mass) > tol


spectra = st.lists(
    st.sampled_from([0.0, 1.0, -1.0, 1.0 + 1e-9, 3e-7, 1e3, -2.5, 7.0]) | st.floats(-10, 10), min_size=1, max_size=9
)


@settings(max_examples=60, deadline=None)
@given(spectrum=spectra, steps=st.integers(1, 11), factor=st.sampled_from([1e-20, 1.0, 1e20]), seed=st.integers(0, 99))
def test_any_spectrum_gives_a_measure_of_mass_one(spectrum: list[float], steps: int, factor: float, seed: int) -> None:
    """Weights are positive and sum to 1, nodes lie within the spectrum, and the first moment is z^T A z / z^T z."""
    A = symmetric_matrix(torch.tensor(spectrum, dtype=F64)) * factor
    op = operator(A)
    rules = run(LanczosQuadrature(num_probes=2, steps=steps, seed=seed), op)
    theta, mass = measures(A, op, "rademacher", seed, 2)
    tol = 100 * len(A) * EPS  # of sums of n terms
    norm = float(theta.abs().max())
    assert (rules.weights >= 0).all()
    assert (rules.weights.sum(1) - 1.0).abs().max() <= tol
    assert rules.nodes.min() >= float(theta[0]) - tol * norm
    assert rules.nodes.max() <= float(theta[-1]) + tol * norm
    assert ((rules.weights * rules.nodes).sum(1) - mass @ theta).abs().max() <= tol * norm
    assert (rules.spreads >= 0).all()


@pytest.mark.parametrize("max_rows", [1, 3, 16])
@pytest.mark.parametrize("lockstep", [1, 2, 5, 7, None])
def test_results_do_not_depend_on_what_shares_a_product(lockstep: int | None, max_rows: int) -> None:
    """Bitwise, for an operator whose rows do not feel each other; exhausted probes leave the others alone."""
    spectrum = torch.cat([torch.zeros(15, dtype=F64), torch.arange(1, 6, dtype=F64)])
    A = symmetric_matrix(spectrum)
    alone = run(LanczosQuadrature(num_probes=7, steps=6, lockstep=1, seed=1), operator(A), max_rows=1)
    shared = run(LanczosQuadrature(num_probes=7, steps=6, lockstep=lockstep, seed=1), operator(A), max_rows=max_rows)
    for name in ("nodes", "weights", "alpha", "beta", "degrees", "spreads"):
        assert torch.equal(getattr(alone, name), getattr(shared, name)), name
    other = run(LanczosQuadrature(num_probes=7, steps=6, lockstep=lockstep, seed=2), operator(A), max_rows=max_rows)
    assert not torch.equal(alone.nodes, other.nodes)


def test_each_product_is_counted_and_needed() -> None:
    """num_probes times steps at most, fewer where the space is exhausted; stopping anywhere leaves right rules."""
    A = symmetric_matrix(SPECTRA["spread"])
    op, algorithm = operator(A), LanczosQuadrature(num_probes=4, steps=5, lockstep=3, seed=0)
    theta, mass = measures(A, op, "rademacher", 0, 4)
    for budget in range(1, 21):
        calls: list[int] = []
        rules = run(algorithm, operator(A, calls), max_matvecs=budget)
        assert len(calls) == budget
        assert worst_moment(rules, theta, mass[: len(rules.nodes)]) <= 40 * N**2 * EPS
        # 3 probes run at once: their rules count once all steps are made (13, 14, 15 products), before that as they are
        expected = {13: 1, 14: 2, 19: 3, 20: 4}.get(budget, min(budget, 3))
        assert len(rules.nodes) == expected
    calls = []
    run(algorithm, operator(A, calls))
    assert len(calls) == 20
    calls = []
    run(LanczosQuadrature(num_probes=4, steps=50, seed=0), operator(symmetric_matrix(SPECTRA["repeated"]), calls))
    assert len(calls) == 8


def test_progress_ends_at_its_total() -> None:
    algorithm = LanczosQuadrature(num_probes=4, steps=5, seed=0)
    op = operator(symmetric_matrix(SPECTRA["low-rank"]))
    seen: list[Any] = []
    run(algorithm, op, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 20
    assert all(a.done < b.done for a, b in pairwise(seen))


def test_memory_decides_how_many_probes_share_a_product() -> None:
    """16 at most, and their bases in 1 GiB: of n = 4e6 float32, 40 steps hold 640 MB a probe."""
    from curvkit_core.backends import Segment, VectorSpace

    def width(n: int, **options: Any) -> int:
        space = VectorSpace([Segment(name="", numel=n)], dtype=torch.float32)
        algorithm = LanczosQuadrature(num_probes=99, **options)
        return algorithm._width(space, 40)

    assert width(1000) == 16
    assert width(1_000_000) == 6
    assert width(4_000_000) == 1
    assert width(4_000_000, basis_dtype="bfloat16") == 3
    assert width(4_000_000, lockstep=4) == 4
    assert width(1000, lockstep=200) == 99


@pytest.mark.parametrize(("storage", "dtype"), [("host", None), ("disk", None), ("device", "float64")])
def test_the_basis_may_lie_elsewhere(storage: str, dtype: str | None) -> None:
    """The same rules, to rounding."""
    A = symmetric_matrix(SPECTRA["spread"])
    one = run(LanczosQuadrature(num_probes=3, steps=9, seed=0), operator(A))
    other = run(LanczosQuadrature(num_probes=3, steps=9, seed=0, basis_storage=storage, basis_dtype=dtype), operator(A))
    # rows come in pairs from elsewhere: sums of products in another order
    assert (one.nodes - other.nodes).abs().max() <= 100 * N * EPS * 5
    assert (one.weights - other.weights).abs().max() <= 100 * N * EPS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_basis_of_lower_precision_rounds_the_nodes_and_makes_no_ghosts(dtype: str) -> None:
    """Rows rounded to eps move T by a few eps |A|: the outlier stays one node, and means of t and t^2 stay."""
    spectrum = torch.cat([torch.linspace(0, 1, 199, dtype=F64), torch.tensor([50.0], dtype=F64)])
    A = symmetric_matrix(spectrum).float()
    op = operator(A)
    rules = run(LanczosQuadrature(num_probes=3, steps=60, seed=0, basis_dtype=dtype), op)
    assert ((rules.nodes > 25) & (rules.weights > 0)).sum(1).tolist() == [1, 1, 1]
    whole = run(LanczosQuadrature(num_probes=3, steps=60, seed=0), op)
    eps = torch.finfo(getattr(torch, dtype)).eps
    for power in (1, 2):
        gap = ((rules.weights * rules.nodes**power).sum(1) - (whole.weights * whole.nodes**power).sum(1)).abs().max()
        assert gap <= 4 * eps * 50.0**power


def test_what_is_avoided_is_not_met() -> None:
    """Orthogonal to the top eigenvectors, a probe's rule is that of the rest; signs that lie within are replaced."""
    A = symmetric_matrix(SPECTRA["spread"])
    theta, U = torch.linalg.eigh(A)
    op = operator(A)
    algorithm = LanczosQuadrature(num_probes=5, steps=99, seed=0)
    state = algorithm.init(op.space, avoid=U[:, -3:].mT)
    while (V := algorithm.ask(state, 2)) is not None:
        state = algorithm.tell(op.space, state, V, op.apply(V))
    rules = algorithm.result(op.space, state)
    assert (rules.sizes == N - 3).all()
    assert rules.degrees.isinf().all()
    assert (rules.nodes - theta[: N - 3]).abs().max() <= 100 * N * EPS * 5
    z = op.space.random("rademacher", 0, 0, 1)
    small = algorithm.init(op.space, avoid=z / z.norm())
    assert float(small.newest[0].norm()) == pytest.approx(1.0, abs=1e-12)
    assert abs(float(small.newest[0] @ (z / z.norm())[0])) <= 1e-14
    with pytest.raises(ValueError, match="avoid holds 24 rows: expected fewer than 24"):
        algorithm.init(op.space, avoid=torch.eye(N, dtype=F64))


def test_state_holds_plain_data_alone() -> None:
    """Tensors that share no memory, bases, numbers and tuples: what a checkpoint can hold."""
    algorithm = LanczosQuadrature(num_probes=5, steps=4, lockstep=2, seed=0)
    op = operator(symmetric_matrix(SPECTRA["spread"]))
    state = algorithm.init(op.space)
    for _ in range(7):
        V = algorithm.ask(state, 1)
        assert V is not None
        state = algorithm.tell(op.space, state, V, op.apply(V))
    values = [getattr(state, f.name) for f in attrs.fields(type(state))]
    assert all(isinstance(v, (int, Tensor, tuple)) for v in values)
    assert all(isinstance(b, Basis) for b in state.bases)
    tensors = [v for v in values if isinstance(v, Tensor)] + [block for b in state.bases for block in b.blocks]
    places = [t.untyped_storage().data_ptr() for t in tensors if t.numel()]
    assert len(places) == len(set(places))


def test_radau_rules_have_their_node_and_one_degree_more() -> None:
    """A node at the place given; exact to degree 2m: twin by dense moments. Below all others, weights positive."""
    A = symmetric_matrix(SPECTRA["spread"] + 4.0)
    op = operator(A)
    rules = run(LanczosQuadrature(num_probes=3, steps=5, seed=0), op)
    theta, mass = measures(A, op, "rademacher", 0, 3)
    nodes, weights = radau_rules(rules.alpha, rules.beta, rules.sizes, 0.5)
    assert (nodes[:, 0] - 0.5).abs().max() <= 1e-12
    assert (weights >= 0).all()
    for power in range(11):
        truth = (mass * (theta / 9) ** power).sum(1)
        assert ((weights * (nodes / 9) ** power).sum(1) - truth).abs().max() <= 1e-12
    truth = (mass * (theta / 9) ** 11).sum(1)
    assert ((weights * (nodes / 9) ** 11).sum(1) - truth).abs().min() > 1e-9  # and to no more


def test_spreads_are_distances_to_what_is_not_resolved() -> None:
    """A converged outlier has none; elsewhere it is at most the mean distance to the neighbours."""
    spectrum = torch.cat([torch.linspace(0, 1, 199, dtype=F64), torch.tensor([50.0], dtype=F64)])
    rules = run(LanczosQuadrature(num_probes=2, steps=12, seed=0), operator(symmetric_matrix(spectrum)))
    assert rules.spreads[:, -1].max() <= 1e-9
    gaps = 0.5 * (rules.nodes[:, 2:] - rules.nodes[:, :-2])
    assert (rules.spreads[:, 1:-1] <= gaps * (1 + 1e-12)).all()
    assert rules.spreads[:, 3:-3].min() > 1e-3
    one = gauss_rules(torch.ones(1, 1, dtype=F64), torch.full((1, 1), 0.5, dtype=F64), torch.tensor([1]))
    assert node_spreads(one[0], one[2], torch.tensor([1])).tolist() == [[0.5]]
