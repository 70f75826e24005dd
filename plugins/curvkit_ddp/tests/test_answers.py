"""N ranks, replicated or sharded, find what one process finds: products, probes, iterated results, errors, traffic.

One launch of 2 and one of 4 gloo ranks answers everything; each test reads its part.
"""

from __future__ import annotations

import pytest
import torch
from cases import relative
from torch import Tensor

from curvkit_core import CurvatureTracker, HessianOperator, Problem, eigsh, solve, spectral_density, sweep, trace
from curvkit_core.landscape import loss_plane, loss_slice

#: All of them on two ranks; on four those with tied weights, a CNN, attention, and batches that count alike.
VARIANTS = {
    2: (
        "tied-mlp",
        "regression-mlp",
        "multilabel-mlp",
        "shared-convnet",
        "tiny-transformer",
        "without-logits",
        "tied-mlp, batch-mean",
        "tiny-transformer, microbatches",
        "tied-mlp, some",
        "tied-mlp, frozen",
    ),
    4: ("tied-mlp", "shared-convnet", "tiny-transformer", "tied-mlp, batch-mean"),
}
KINDS = ("replicated", "sharded")


class Answers:
    """What every rank of one launch has recorded."""

    def __init__(self, ranks: list) -> None:
        self.size = len(ranks)
        self.ranks = ranks

    def fact(self, name: str) -> list:
        """Each rank's."""
        return [rank.facts[name] for rank in self.ranks]

    def whole(self, kind: str, key: str, problem: Problem) -> Tensor:
        """Rows over all parameters; replicas must be equal bit for bit, and shards are put together."""
        named = {}
        for name in problem.parameters.names:
            parts = [rank.tensors[f"{key}/{name}"] for rank in self.ranks]
            if kind == "replicated":
                assert all(torch.equal(part, parts[0]) for part in parts)
            named[name] = parts[0] if kind == "replicated" else torch.cat(parts, dim=1)
        rows = len(next(iter(named.values())))
        return torch.stack([problem.parameters.from_named({k: t[i] for k, t in named.items()}) for i in range(rows)])


@pytest.fixture(scope="session")
def answers(ranks, size, tmp_path_factory) -> Answers:
    """One launch."""
    folder = tmp_path_factory.mktemp(f"ranks-{size}")
    done = ranks("answers", size, folder, *VARIANTS[size])
    logs = "\n".join((folder / f"rank-{r}.log").read_text() for r in range(size))
    assert done["codes"] == [0] * size, logs
    from recorded import Recorded

    return Answers([Recorded.load(folder, rank) for rank in range(size)])


def one_process(variant: str, cut: str, size: int) -> Problem:
    """The same data in the ranks' order, without a backend."""
    import problems

    name, options = problems.VARIANTS[variant]
    case = problems.make(name)
    batches = [batch for own in problems.batches_of(case, problems.CUTS[size][cut]) for batch in own]
    return Problem(case.model, batches, case.loss, preflight="off", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_one_process(answers, kind):
    """A v of N ranks = A v of one, for every operator, ragged and uneven data, an empty rank: to 1e-12 in float64."""
    import problems

    checked = 0
    for variant in VARIANTS[answers.size]:
        for cut in problems.cuts_of(variant, answers.size):
            problem = one_process(variant, cut, answers.size)
            for name, op in problems.operators_of(problem).items():
                expected = op.apply(problems.directions(problem))
                got = answers.whole(kind, f"{kind}/{variant}/{cut}/{name}", problem)
                assert relative(got, expected) <= 1e-12, (variant, cut, name)
                assert relative(got * (1.0 + 1e-9), expected) > 1e-12  # control
                checked += 1
    assert checked >= 19


@pytest.mark.parametrize("kind", KINDS)
def test_probes_are_bit_equal(answers, kind):
    """Signs and Gaussians of one seed are the same bits on one process, replicas and shards; a sphere to its norm."""
    import problems

    for variant in VARIANTS[answers.size]:
        cut = next(iter(problems.CUTS[answers.size]))
        problem = one_process(variant, cut, answers.size)
        for probe in ("rademacher", "gaussian", "sphere"):
            expected = problem.space.random(probe, 5, 2, 2)
            got = answers.whole(kind, f"{kind}/{variant}/{cut}/{probe}", problem)
            if probe == "sphere":  # divided by a norm that is summed in another order
                assert relative(got, expected) <= 1e-14
            else:
                assert torch.equal(got, expected), (variant, probe)
            assert not torch.equal(got, problem.space.random(probe, 5, 3, 2))  # control: another index


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_as_it_was(answers, kind):
    """Parameters and buffers are bitwise as before, and no gradient is there."""
    facts = {k: v for rank in answers.ranks for k, v in rank.facts.items() if k.startswith(kind) and "untouched" in k}
    assert facts and all(facts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_iterated_results_agree(answers, kind):
    """Eigenpairs, traces, a density's nodes and a solution, with the seeds of one process."""
    problem = one_process("tied-mlp", "uneven", answers.size)
    H = HessianOperator(problem)
    eig = eigsh(H, k=2, tol=1e-8, seed=0)
    for rank in answers.ranks:
        # a Ritz value errs by the square of its residual, 1e-8 |A|, over the gap
        torch.testing.assert_close(rank.tensors[f"{kind}/eigenvalues"], eig.eigenvalues, rtol=1e-12, atol=1e-14)
        expected = [trace(H, method=m, num_matvecs=18, seed=1).estimate for m in ("hutchinson", "hutch++")]
        assert rank.facts[f"{kind}/trace"] == pytest.approx(expected, rel=1e-12)
        density = spectral_density(H, method="slq", num_probes=2, steps=8, seed=0)
        torch.testing.assert_close(rank.tensors[f"{kind}/nodes"], density.nodes, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rank.tensors[f"{kind}/weights"], density.weights, rtol=1e-7, atol=1e-12)
    vectors = answers.whole(kind, f"{kind}/eigenvectors", problem)
    overlap = (vectors @ eig.eigenvectors.T).diagonal().abs()
    assert float((1.0 - overlap).abs().max()) <= 1e-12
    b = problem.space.random("gaussian", 11, 0, 1)[0]
    x = answers.whole(kind, f"{kind}/solution", problem)[0]
    assert relative(H.shift(2.0) @ x, b) <= 1e-9  # the residual asked for, 1e-10, and the products' rounding
    assert relative(x, solve(H.shift(2.0), b, tol=1e-10).solution) <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_the_loss_agree(answers, kind):
    """L(theta + t q), its parabola and its curvature: sums of 13 losses of some units, in another order."""
    problem = one_process("tied-mlp", "uneven", answers.size)
    expected = loss_slice(problem, problem.space.random("gaussian", 4, 0, 1), radius=0.1, points=5)
    plane = loss_plane(problem, *problem.space.random("gaussian", 4, 0, 2), radii=(0.1, 0.2), points=3)
    for rank in answers.ranks:
        torch.testing.assert_close(rank.tensors[f"{kind}/plane"], plane.losses, rtol=1e-12, atol=0.0)
        for name in ("losses", "parabola", "curvatures"):
            got = rank.tensors[f"{kind}/slice/{name}"]
            torch.testing.assert_close(got, getattr(expected, name), rtol=1e-12, atol=0.0)
    assert float((expected.losses[0, 0] / expected.losses[0, 2] - 1.0).abs()) > 1e-6  # control: it does move


@pytest.mark.parametrize("kind", KINDS)
def test_tracked_curvature_agrees(answers, kind):
    """Loss, gradient's norm, sharpness and the gradient's share along it, of one measurement."""
    problem = one_process("tied-mlp", "uneven", answers.size)
    row = CurvatureTracker(problem, tol=1e-3, max_matvecs=12, seed=0).measure(0)
    expected = [row.loss, row.gradient_norm, row.eigenvalues[0], row.overlap]
    for found in answers.fact(f"{kind}/tracked"):
        # the same iteration: roundings of its products, 1e-16, grow by its steps and by |A| over the gap
        assert found == pytest.approx(expected, rel=1e-9)
        assert found[:2] == pytest.approx(expected[:2], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sweep_over_groups_agrees(answers, kind):
    """Each block's size, trace and largest eigenvalue, and all blocks' norms; parts of them are empty on a rank."""
    problem = one_process("tied-mlp", "uneven", answers.size)
    blocks = sweep(HessianOperator(problem), by=("first.*", "[ml]*"), k=1, num_probes=2, steps=3, seed=0)
    rows = [[r.n, r.trace, r.eigenvalues[0] if r.eigenvalues else 0.0] for r in blocks.rows]
    expected = torch.tensor(rows, dtype=torch.float64)
    assert expected[:, 0].tolist() == [15.0, 24.0]  # middle and last, which lie on two sides of what is left out
    for rank in answers.ranks:
        torch.testing.assert_close(rank.tensors[f"{kind}/sweep/norms"], blocks.frobenius_norms, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(rank.tensors[f"{kind}/sweep/rows"], expected, rtol=1e-10, atol=1e-13)


def test_sweep_where_one_rank_has_everything(answers):
    """The Hessian of (w x + b - y)^2 over alike x = (1, 1, 1) is 2 x x^T, x with a one for b: its eigenvalue is 8."""
    for found in answers.fact("one rank"):
        assert found == pytest.approx(8.0, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_devices_are_refused(answers, kind):
    """One rank's model on `meta`, or on a GPU: every rank says who has what; none of them waits."""
    others = ", ".join(str(r) for r in range(answers.size) if r != 1)
    has = "has" if answers.size == 2 else "have"
    for name, device in (("meta", "meta"), ("cuda:0", "cuda")):
        (message,) = set(answers.fact(f"{kind}/{name}"))
        assert message.startswith("RankError: the ranks were not started alike: ")
        assert f"device: rank {others} {has} cpu, rank 1 has {device}" in message
    for message in answers.fact(f"{kind}/nowhere"):
        assert message.startswith("ValueError: the ") and "on meta" in message
    assert answers.fact(f"{kind}/somewhere") == [""] * answers.size  # control, and in step


@pytest.mark.parametrize("kind", KINDS)
def test_dependent_rows_become_an_orthonormal_basis(answers, kind):
    """Q Q^T = I and A = R^T Q where a row is there twice: Cholesky would fail, QR of stacked factors does not."""
    for rank in answers.ranks:
        assert float((rank.tensors[f"{kind}/QQ"] - torch.eye(3)).abs().max()) <= 1e-14
        assert rank.facts[f"{kind}/QR"] <= 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_time_budget_stops_all_ranks_together(answers, kind):
    """`max_seconds` is told by each rank's own clock, and the ranks agree: none of them waits for the others."""
    assert answers.fact(f"{kind}/stopped") == ["seconds"] * answers.size


def test_a_product_is_one_data_collective(answers):
    """k n elements and 50 of counts and control, once, for two batches a rank; beside it one number to agree on."""
    for sent, eigsh_sent, elements in zip(
        answers.fact("sent by a product"),
        answers.fact("sent by 5 products"),
        answers.fact("elements of a product"),
        strict=True,
    ):
        assert sent == [elements + 50]
        n = elements // 2
        assert [s for s in eigsh_sent if s > 1] == [n + 50] * 5
        assert [s for s in eigsh_sent if s == 1] == [1] * 6  # at each of the driver's steps: whether to stop


def test_wrapped_model_has_the_same_names_and_product(answers):
    """DistributedDataParallel adds no `module.`, no collective of its own, and is as it was afterwards."""
    import problems

    cut = next(iter(problems.CUTS[answers.size]))
    problem = one_process("tied-mlp", cut, answers.size)
    assert answers.fact("wrapped/names") == [list(problem.parameters.names)] * answers.size
    expected = HessianOperator(problem).apply(problems.directions(problem))
    assert relative(answers.whole("replicated", "wrapped", problem), expected) <= 1e-12
    assert answers.fact("wrapped/forward") == [False] * answers.size


def test_sharded_traffic_is_the_cost_model(answers):
    """A product of one row over one microbatch of b blocks: 4 b - 3 gathers of weights, b of vectors, 2 b reductions.

    Four sweeps over the blocks: the forward, the first backward, and two in the second one; at each turn the last block
    is still there. At most two blocks are whole at a time; with what autograd saves left as it is, all of them are.
    """
    blocks = 7  # six, and the root
    for name in ("hessian", "ggn", "fisher", "empirical-fisher"):
        for weights, vectors, reductions, whole in answers.fact(f"traffic/{name}"):
            assert weights == 4 * blocks - 3, name
            assert vectors == blocks, name
            assert reductions == 2 * blocks, name
            assert whole <= 2, name
    assert answers.fact("traffic/unpacked") == [blocks] * answers.size  # control


def test_sharded_memory_falls_with_the_ranks(answers):
    """Bytes of parameters and of a basis on a rank: 1/N of the whole (sizes here divide)."""
    whole = 8 * 8 * 9 * 8  # eight layers of 72 elements of 8 bytes
    for sizes, (parameters, basis) in zip(answers.fact("traffic/sizes"), answers.fact("traffic/bytes"), strict=True):
        assert sizes == [whole // 8, whole // 8, whole // 8 // answers.size]
        assert parameters == whole // answers.size
        assert basis == 2 * whole // answers.size


def test_rank_that_fails_is_named_on_the_others(answers):
    """The failing rank raises its own error, the others one that names it and says the same."""
    for name, own in (
        ("one rank raises", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("one rank raises in a slice", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("one rank is not finite", "PreflightError: [loss-not-finite]"),
    ):
        messages = answers.fact(name)
        assert messages[1].startswith(own)
        for rank in (0, *range(2, answers.size)):
            assert messages[rank].startswith(
                f"RankError: rank {rank} stopped, since the product failed on rank 1: {own}"
            )


def test_ranks_go_on_after_an_error(answers):
    """The ranks are in step afterwards: the next product is right."""
    import problems

    problem = one_process("tied-mlp", "uneven", answers.size)
    expected = HessianOperator(problem).apply(problems.directions(problem))
    assert relative(answers.whole("replicated", "after the errors", problem), expected) <= 1e-12


def test_ranks_that_differ_are_refused(answers):
    """Values, parameter sets, and whatever a caller compares: every rank says who has what."""
    for name, text in (
        ("values differ", "values of the model's parameters and buffers"),
        ("parameters differ", "parameters: rank 0 has 2 of 15 elements"),
        ("compared", "plugins: rank 0 has b, rank"),
    ):
        messages = answers.fact(name)
        assert len(set(messages)) == 1
        assert messages[0].startswith("RankError: the ranks were not started alike") and text in messages[0], name
    assert answers.fact("shared") == ["text of rank 0"] * answers.size


def test_checkpoint_that_one_rank_alone_sees_is_refused(answers):
    """On every rank, and nothing else is; they are in step."""
    for rank, message in enumerate(answers.fact("checkpoint/apart")):
        assert message.startswith("CheckpointError: the ranks do not see the same checkpoints in ")
        assert f"checkpoint-of-{rank}: here the newest is number {0 if rank else 1}. Pass a folder" in message
    for name in ("first", "together"):
        assert answers.fact(f"checkpoint/{name}") == [""] * answers.size


def test_checkpoint_that_rank_0_cannot_write_ends_the_run_on_all(answers):
    """Its own error there; the others hear of it, and do not wait for a product."""
    first, *others = answers.fact("checkpoint/full")
    assert first == "OSError: [Errno 28] No space left on device"
    for message in others:
        assert message.startswith("CheckpointError: the rank that writes the checkpoints in ")
        assert message.endswith("could not: its own error says why.")


def test_no_data_on_any_rank_is_said_by_all(answers):
    """Empty ranks are fine, unless all of them are."""
    assert all(m.startswith("ValueError: the data (list) gave no batches") for m in answers.fact("no data"))


def test_what_shards_cannot_do_is_refused(answers):
    """Strategies, caches, plain models, masks, vectors over the data: each with its reason, on every rank."""
    expected = {
        "lean": "ValueError: strategy='lean' does not work on sharded parameters",
        "keep": "ValueError: cache='keep' does not work on sharded parameters",
        "compile": "ValueError: compile=True does not work on sharded parameters",
        "plain": "ValueError: parameter 'first.weight' is not sharded",
        "mask": "ValueError: params= selects",
        "length": "ValueError: V has shape",
        "jacobian": "ValueError: a vector over the outputs of Problem(",
    }
    for name, text in expected.items():
        assert all(message.startswith(text) for message in answers.fact(f"sharded/{name}")), answers.fact(
            f"sharded/{name}"
        )


@pytest.mark.parametrize("size", [4], indirect=True, scope="session")
def test_replicas_of_shards_multiply_as_one_process(answers):
    """A mesh of two axes on four ranks: a rank holds half, and data of all four count."""
    import problems

    problem = one_process("tied-mlp", "uneven", 4)
    pairs = Answers([answers.ranks[0], answers.ranks[1]]), Answers([answers.ranks[2], answers.ranks[3]])
    for name, op in problems.operators_of(problem).items():
        expected = op.apply(problems.directions(problem))
        for pair in pairs:
            assert relative(pair.whole("sharded", f"hybrid/{name}", problem), expected) <= 1e-12, name
    for n, n_local in answers.fact("hybrid/sizes"):
        assert n == problem.space.n and n_local < n
    expected = float(eigsh(HessianOperator(problem), k=1, tol=1e-6, seed=0).eigenvalues[0])
    assert answers.fact("hybrid/eigenvalue") == pytest.approx([expected] * 4, rel=1e-10)
