"""A sweep over groups: every block's trace, norm, eigenvalues and coupling against the dense matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvkit_core import CrossEntropyLoss, GGNOperator, HessianOperator, Problem, block_diagonal, sweep
from curvkit_core.algorithms.blocks.groups import groups_of
from curvkit_core.algorithms.blocks.sweep import Sweep

EPS = torch.finfo(torch.float64).eps


class Stacked(nn.Module):
    """An embedding, two numbered blocks whose layers have two parameters each, a head, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) * self.scale
        for block in self.blocks:
            h = block(h)
        return self.head(h)


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(3)
    data = [(torch.randn(8, 3, dtype=torch.float64), torch.randint(3, (8,))) for _ in range(2)]
    return Problem(Stacked().double(), data, CrossEntropyLoss())


def blocks_of(problem: Problem, dense: Tensor, by: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """By group: the indices of its parameters, and its diagonal block."""
    found = {}
    for group in groups_of(problem.space, by):
        at = torch.cat([torch.arange(place.start, place.stop) for place in group.places])
        found[group.name] = (at, dense[at][:, at])
    return found


def test_groups_have_the_modules_names(problem: Problem) -> None:
    """Layers by module, blocks by their number, parameters one by one, globs by themselves."""
    names = {by: [g.name for g in groups_of(problem.space, by)] for by in ("layer", "block", "parameter")}
    assert names["layer"] == ["scale", "embed", "blocks.0.0", "blocks.1.0", "head"]
    assert names["block"] == ["scale", "embed", "blocks.0", "blocks.1", "head"]
    assert names["parameter"] == list(problem.parameters.names)
    globs = groups_of(problem.space, ["blocks.*.weight", "head.*"])
    assert [(g.name, g.n) for g in globs] == [("blocks.*.weight", 32), ("head.*", 15)]


@pytest.mark.parametrize("by", ["layer", "parameter", ["blocks.*.weight", "head.*"]])
def test_eigenvalues_are_those_of_the_dense_blocks(problem: Problem, by: Any) -> None:
    """k of each block to its residual, which is short; a block of fewer parameters gives all it has."""
    op = HessianOperator(problem)
    dense = op.to_dense()
    result = sweep(op, by=by, k=3, num_probes=2, tol=1e-10, seed=0)
    blocks = blocks_of(problem, dense, by)
    assert [row.group for row in result.rows] == list(blocks)
    for row in result.rows:
        _, block = blocks[row.group]
        truth = torch.linalg.eigvalsh(block).flip(0)[: len(row.eigenvalues)]
        scale = float(block.norm())
        assert row.converged
        assert len(row.eigenvalues) == min(3, row.n)
        for value, residual, exact in zip(row.eigenvalues, row.residuals, truth.tolist(), strict=True):
            assert residual <= 1e-9 * abs(exact) + 100 * EPS * scale
            assert abs(value - exact) <= residual + 100 * EPS * scale  # Weyl, and rounding of n-term sums
            assert abs(1.001 * value - exact) > residual + 100 * EPS * scale or abs(exact) < 1e-9


def test_traces_norms_and_coupling_lie_within_their_errors(problem: Problem) -> None:
    """150 probes: each number within 4.5 standard errors, and these below 10 % of the largest."""
    op = GGNOperator(problem)
    dense = op.to_dense()
    result = sweep(op, by="layer", k=0, num_probes=150, seed=1)
    blocks = blocks_of(problem, dense, "layer")
    norms = torch.stack([torch.stack([dense[a][:, b].norm() for b, _ in blocks.values()]) for a, _ in blocks.values()])
    largest = max(float(b.trace()) for _, b in blocks.values())
    for row in result.rows:
        _, block = blocks[row.group]
        assert abs(row.trace - float(block.trace())) <= 4.5 * row.trace_stderr + 1e-12
        assert row.trace_stderr <= 0.1 * largest
        assert abs(row.frobenius_norm - float(block.norm())) <= 4.5 * row.frobenius_stderr + 1e-12
        assert row.frobenius_stderr <= 0.1 * float(norms.max())
        assert row.eigenvalues == ()
    assert abs(result.trace - float(dense.trace())) <= 4.5 * result.trace_stderr
    assert result.trace_stderr <= 0.1 * float(dense.trace())
    assert sum(row.share for row in result.rows) == pytest.approx(1.0, abs=1e-12)
    inside = float(norms.diagonal().square().sum() / norms.square().sum())
    assert abs(result.coupling - (1.0 - inside)) <= 4.5 * result.coupling_stderr
    assert result.coupling_stderr <= 0.02
    assert torch.allclose(result.frobenius_norms, norms, rtol=0.0, atol=0.15 * float(norms.max()))


def test_probes_are_exact_over_all_signs() -> None:
    """All 2^4 sign vectors of a 4 x 4 matrix in two groups: the means are traces and squared norms to rounding."""
    from itertools import product

    from curvkit_core.backends import Segment, VectorSpace

    torch.manual_seed(0)
    A = torch.randn(4, 4, dtype=torch.float64)
    A = A + A.mT
    space = VectorSpace([Segment(name="a.w", numel=1), Segment(name="b.w", numel=3)], dtype=torch.float64)
    algorithm = Sweep(by="layer", k=0, num_probes=16, seed=0)
    state = algorithm.init(space)
    for signs in product((-1.0, 1.0), repeat=4):
        state.probe = torch.tensor([signs], dtype=torch.float64)
        V = algorithm.ask(state, 16)
        assert V is not None
        assert V.shape == (2, 4)
        state = algorithm.tell(space, state, V, V @ A)
    result = algorithm.result(space, state)
    tol = 100 * EPS * float(A.norm()) ** 2
    assert result.rows[0].trace == pytest.approx(float(A[0, 0]), abs=tol)
    assert result.rows[1].trace == pytest.approx(float(A[1:, 1:].trace()), abs=tol)
    blocks = [[A[:1, :1], A[:1, 1:]], [A[1:, :1], A[1:, 1:]]]
    norms = torch.tensor([[float(b.norm()) for b in row] for row in blocks], dtype=torch.float64)
    assert torch.allclose(result.frobenius_norms, norms, rtol=0.0, atol=tol)
    assert not torch.allclose(1.001 * result.frobenius_norms, norms, rtol=0.0, atol=tol)


def test_block_diagonal_operator_has_no_coupling(problem: Problem) -> None:
    """The coupling is 0 and off-diagonal norms vanish; of the GGN itself it is not small."""
    ggn = GGNOperator(problem)
    names = ["scale", "embed.*", "blocks.0.*", "blocks.1.*", "head.*"]
    apart = sweep(block_diagonal(problem, names), by="layer", k=0, num_probes=4, seed=0)
    assert abs(apart.coupling) <= 1e-12
    assert float((apart.frobenius_norms - apart.frobenius_norms.diagonal().diag()).abs().max()) == 0.0
    assert sweep(ggn, by="layer", k=0, num_probes=4, seed=0).coupling > 0.1


def test_one_pass_over_the_data_serves_many_groups() -> None:
    """Five groups' probes in one block: the model is called once a batch for them, not once a group."""
    torch.manual_seed(0)
    model = Stacked().double()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    data = [(torch.randn(8, 3, dtype=torch.float64), torch.randint(3, (8,)))]
    op = GGNOperator(Problem(model, data, CrossEntropyLoss(), preflight="off"), cache="rebuild", strategy="reverse")
    result = sweep(op, by="layer", k=0, num_probes=6, seed=0)
    assert result.num_matvecs == 30
    assert len(calls) == 6


BAD = {
    "unknown": ({"by": "layers"}, "by='layers' is unknown: expected one of layer, block, parameter"),
    "no match": ({"by": ["heads.*"]}, "'heads.*' matches no parameter. Near: head"),
    "overlap": ({"by": ["blocks.*", "*.weight"]}, "is in 'blocks.*' and '*.weight'"),
    "empty": ({"by": []}, "by=.* is empty"),
    "steps": ({"steps": 2, "k": 5}, "steps=2 is too small for k=5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(problem: Problem, name: str) -> None:
    """By value, with the mend."""
    options, text = BAD[name]
    with pytest.raises(ValueError, match=text.replace("[", r"\[").replace("*", r"\*").replace("=.\\*", "=.*")):
        sweep(HessianOperator(problem), **options)
