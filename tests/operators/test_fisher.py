"""The sampled Fisher against per-unit gradients at targets drawn by another path; its mean is the GGN."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from cases import CASES, F64, Case, flat_outputs, relative, tied_mlp, tiny_transformer
from per_unit import gradients_of
from torch import Tensor
from torch.nn import functional

from curvkit_core import CallableLoss, CrossEntropyLoss, GGNOperator, Problem
from curvkit_core.backends import probes
from curvkit_core.operators import FisherOperator

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match


def drawn_gradients(case: Case, seed: int, sample: int) -> Tensor:
    """A gradient a unit at its drawn target: the definition, one unit and one number at a time."""
    outputs, flat = flat_outputs(case)
    logits = outputs(flat, case.inputs)
    kind = type(case.loss).__name__.removeprefix("Linear")  # of hidden states and a head it is the same likelihood
    each = 1 if kind == "CrossEntropyLoss" else logits.shape[1]
    key = probes.stream_key(seed, sample, f"targets/{each}")
    # read here: inside torch.func.grad torch 2.6 makes tensors whose numbers cannot be had
    drawn = iter(probes.uniforms(case.units * each, key=key, start=0).view(-1, each).tolist())
    shares = torch.softmax(logits, 1).movedim(1, -1).tolist()

    def loss(z: Tensor, row: int, place: int) -> Tensor:
        numbers = next(drawn)
        values = logits[row] if logits.ndim == 2 else logits[row, :, place]
        if kind == "CrossEntropyLoss":
            chosen, passed = 0, 0.0
            for c, p in enumerate(shares[row] if logits.ndim == 2 else shares[row][place]):
                passed += p
                if passed > numbers[0]:
                    chosen = c
                    break
            return -functional.log_softmax(z, 0)[chosen]
        if kind == "MSELoss":
            normal = torch.tensor([statistics.NormalDist().inv_cdf(u) for u in numbers], dtype=F64)
            return (z - values - math.sqrt(each / 2) * normal).square().mean()
        labels = (torch.tensor(numbers, dtype=F64) < torch.sigmoid(values)).to(F64)
        return functional.binary_cross_entropy_with_logits(z, labels, reduction="sum") / math.sqrt(each)

    return gradients_of(case, loss)


def dense_fisher(case: Case, seed: int, num_samples: int) -> Tensor:
    found = [drawn_gradients(case, seed, s) for s in range(num_samples)]
    return sum(g.mT @ g for g in found) / (num_samples * case.units)


@pytest.mark.parametrize("name", list(CASES))
def test_products_match_the_dense_matrix(name: str) -> None:
    """Two draws a unit; another seed, and one draw, are told apart."""
    case = CASES[name]()
    expected = dense_fisher(case, 7, 2)
    assert relative(FisherOperator(case.problem(), num_samples=2, seed=7).to_dense(), expected) <= TOLERANCE
    assert relative(FisherOperator(case.problem(), num_samples=2, seed=8).to_dense(), expected) > 1e3 * TOLERANCE
    assert relative(FisherOperator(case.problem(), num_samples=1, seed=7).to_dense(), expected) > 1e3 * TOLERANCE


@pytest.mark.parametrize("name", list(CASES))
def test_no_cut_of_the_data_and_no_strategy_changes_the_draws(name: str) -> None:
    case = CASES[name]()
    rows = len(case.inputs)
    expected = FisherOperator(case.problem(), seed=3).to_dense()
    for sizes, options in (((rows - 3, 2, 1), {}), ((1,) * rows, {}), (None, {"microbatch_size": 2})):
        assert relative(FisherOperator(case.problem(sizes, **options), seed=3).to_dense(), expected) <= TOLERANCE
    for options in ({"strategy": "reverse", "cache": "keep"}, {"strategy": "lean"}, {"cache": "rebuild"}):
        cut = case.problem((rows - 2, 2))
        assert relative(FisherOperator(cut, seed=3, **options).to_dense(), expected) <= TOLERANCE
    swapped = Problem(case.model, case.batches((rows - 2, 2))[::-1], case.loss)
    assert relative(FisherOperator(swapped, seed=3).to_dense(), expected) > 1e3 * TOLERANCE  # its numbers go by place


def test_the_mean_over_draws_is_the_ggn() -> None:
    """L5: v^T F v over 200 seeds within 4.5 standard errors of v^T G v, and those below 5 %."""
    for case in (tied_mlp(), CASES["regression-mlp"](), CASES["multilabel-mlp"]()):
        problem = case.problem()
        G = GGNOperator(problem)
        v = G.space.random("gaussian", 0, 0, 1)[0]
        truth = float(v @ (G @ v))
        samples = torch.tensor([float(v @ (FisherOperator(problem, seed=s) @ v)) for s in range(200)], dtype=F64)
        stderr = float(samples.std()) / 200**0.5
        assert abs(float(samples.mean()) - truth) <= 4.5 * stderr
        assert stderr <= 0.05 * truth


def test_class_weights_weigh_the_units_and_not_the_draws() -> None:
    """The same draws, each unit's outer product times its own target's weight; the smoothing changes nothing."""
    case = tied_mlp()
    weight = torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    g = drawn_gradients(case, 0, 0)
    counts = weight[case.targets[case.targets != -100]]
    expected = g.mT @ (counts[:, None] * g) / counts.sum()
    weighted = Problem(case.model, case.batches((6, 7)), CrossEntropyLoss(weight=weight))
    assert relative(FisherOperator(weighted).to_dense(), expected) <= TOLERANCE
    smoothed = Problem(case.model, case.batches((6, 7)), CrossEntropyLoss(label_smoothing=0.3))
    assert relative(FisherOperator(smoothed).to_dense(), g.mT @ g / len(g)) <= TOLERANCE
    assert relative(g.mT @ g / len(g), expected) > 1e3 * TOLERANCE


def test_ignored_targets_and_padding_change_nothing() -> None:
    """L7: rows that are all ignored, and longer sequences with an ignored end, leave the units' numbers as they are."""
    case = tied_mlp()
    expected = FisherOperator(case.problem(), seed=1).to_dense()
    ignored = (torch.randn(3, 4, dtype=F64), torch.full((3,), -100))
    between = [case.batches((6, 7))[0], ignored, case.batches((6, 7))[1]]
    found = FisherOperator(Problem(case.model, between, case.loss), seed=1)
    assert relative(found.to_dense(), expected) <= TOLERANCE
    sequences = tiny_transformer()
    expected = FisherOperator(sequences.problem(), seed=1).to_dense()
    kept = sequences.targets[:, :3].clone()
    kept_only = Problem(sequences.model, [(sequences.inputs, sequences.targets)], sequences.loss)
    kept_only.batches = [(sequences.inputs[:, :3], kept)]
    assert relative(FisherOperator(kept_only, seed=1).to_dense(), expected) > 1e3 * TOLERANCE  # units went missing
    padded = sequences.targets.clone()
    padded[:, 3] = -100
    long = Problem(sequences.model, [(sequences.inputs, padded)], sequences.loss)
    assert relative(FisherOperator(long, seed=1).to_dense(), FisherOperator(kept_only, seed=1).to_dense()) <= TOLERANCE


def test_a_batch_object_given_twice_holds_new_units() -> None:
    """Numbers go by place: the second time they are others, also where the loader gives the same object again."""
    case = tied_mlp()
    batch = case.batches()[0]
    twice = FisherOperator(Problem(case.model, [batch, batch], case.loss), seed=2).to_dense()
    copies = [batch, tuple(t.clone() for t in batch)]
    assert relative(twice, FisherOperator(Problem(case.model, copies, case.loss), seed=2).to_dense()) <= TOLERANCE
    assert relative(twice, FisherOperator(case.problem(), seed=2).to_dense()) > 1e3 * TOLERANCE


def test_it_is_one_matrix_positive_semidefinite_and_of_low_rank() -> None:
    """L2, L3, L13, L14; rank at most units times samples; L9: a block is the submatrix, draw for draw."""
    case = CASES["shared-convnet"]()
    problem = case.problem((3, 4))
    F = FisherOperator(problem, seed=5)
    V = F.space.random("gaussian", 0, 0, 3)
    together = F.apply(V)
    assert torch.equal(together, F.apply(V))
    assert relative(torch.stack([F @ v for v in V]), together) <= TOLERANCE
    dense = F.to_dense()
    assert (dense - dense.mT).abs().max() <= TOLERANCE * dense.norm()
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues[0] >= -TOLERANCE * eigenvalues[-1]
    assert int((eigenvalues > 1e-10 * eigenvalues[-1]).sum()) <= 7
    chosen = problem.parameters.entries[1:3]
    places = torch.cat([torch.arange(e.place.start, e.place.stop) for e in chosen])
    block = FisherOperator(problem.restrict([e.name for e in chosen]), seed=5).to_dense()
    assert relative(block, dense[places][:, places]) <= TOLERANCE


def test_draws_follow_the_parameters() -> None:
    """After a step the targets are those of the model as it is now."""
    case = tied_mlp()
    F = FisherOperator(case.problem(), seed=4)
    before = F.to_dense()
    with torch.no_grad():
        for p in case.model.parameters():
            p.mul_(1.5)
    assert relative(F.to_dense(), dense_fisher(case, 4, 1)) <= TOLERANCE
    assert relative(F.to_dense(), before) > 1e3 * TOLERANCE


def test_what_cannot_be_drawn_is_refused_with_the_mend() -> None:
    case = tied_mlp()
    with pytest.raises(ValueError, match="num_samples=0: expected a positive integer"):
        FisherOperator(case.problem(), num_samples=0)
    with pytest.raises(ValueError, match="seed=-1 is no seed: expected an integer from 0 to 2"):
        FisherOperator(case.problem(), seed=-1)
    own = Problem(case.model, case.batches(), CallableLoss(lambda model, batch: model(batch[0]).mean()))
    with pytest.raises(TypeError, match=r"CallableLoss cannot draw targets: .* sample_targets\(y, batch, uniforms\)"):
        FisherOperator(own)
