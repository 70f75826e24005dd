"""What a problem does for a backend of several ranks, without ranks: a backend that plays rank 1 of 2."""

import pytest
import torch
from attrs import define, field
from cases import tied_mlp

from curvkit_core import HessianOperator, Problem
from curvkit_core.backends import HoldsShards, SharesFailures, SingleBackend, World
from curvkit_core.linearize import EngineOptions
from curvkit_core.linearize.engine import Engine


@define(eq=False)
class SecondOfTwo:
    """Its own batches are the second half; the other rank sends sums of zeros, and hears what this one says."""

    world: World = World(rank=1, size=2)
    heard: list = field(factory=list)

    def space(self, parameters):
        return SingleBackend().space(parameters)

    def reduce(self, sums):
        return sums

    def shard(self, batches):
        whole = list(batches)
        return whole[len(whole) // 2 :]

    def context(self, model):
        return SingleBackend().context(model)

    def give_up(self, sums, error):
        self.heard.append(([tuple(s.shape) for s in sums], str(error)))


class Sharding(SecondOfTwo):
    """The same, with parameters that it says are in parts: all of them here; the other rank has one item more."""

    def piece(self, name, parameter):
        return parameter.detach(), 0

    def forward(self, model):
        return SingleBackend().context(model)

    def in_step(self, items):
        for item in items:
            yield item, True
        yield item, False


def test_first_batches_are_dealt_not_the_first_of_each_rank():
    """`num_batches=2` of four: the second rank gets the second of these two, and reads all that it is given."""
    case = tied_mlp()
    problem = Problem(case.model, case.batches((3, 3, 3, 4)), case.loss, num_batches=2)
    dealt = problem.equipped(backend=SecondOfTwo())
    assert [len(batch[0]) for batch in dealt.batches] == [3]
    assert torch.equal(dealt.batches[0][0], case.batches((3, 3, 3, 4))[1][0])
    assert dealt.num_batches is None and problem.num_batches == 2


def test_failure_is_told_with_the_shapes_that_others_send():
    """A rank that cannot make its part says so in place of its sums; its own error goes on."""
    case, backend = tied_mlp(), SecondOfTwo()
    assert isinstance(backend, SharesFailures) and not isinstance(backend, HoldsShards)
    problem = Problem(case.model, [(1, 2)], case.loss, backend=backend)
    with pytest.raises(TypeError, match="expected a torch.Tensor"):
        HessianOperator(problem).apply(problem.space.zeros(3))
    ((shapes, text),) = backend.heard
    assert shapes == [(3, problem.parameters.n), ()]
    assert "expected a torch.Tensor" in text


def test_repeated_microbatch_changes_nothing():
    """A rank that keeps step with weight 0 has the product of its own data; the weight goes into the loss."""
    case = tied_mlp()
    plain = Problem(case.model, case.batches((3, 10)), case.loss)
    kept = Problem(case.model, case.batches((3, 10)), case.loss, backend=Sharding())
    pieces = list(kept.pieces_in_step())
    assert [(p.weight, float(p.loss_weight), float(p.count)) for p in pieces] == [
        (1.0, 1.0, 2.0),
        (1.0, 1.0, 9.0),
        (1.0, 0.0, 0.0),
    ]
    V = plain.space.random("gaussian", 0, 0, 2)
    expected = HessianOperator(plain, strategy="reverse", cache="rebuild").apply(V)
    torch.testing.assert_close(HessianOperator(kept).apply(V), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "lean"}, "strategy='lean' does not work on sharded parameters"),
        ({"strategy": "finite-difference"}, "strategy='finite-difference' does not work on sharded"),
        ({"cache": "keep"}, "cache='keep' does not work on sharded parameters"),
        ({"compile": True}, "compile=True does not work on sharded parameters"),
    ],
)
def test_shards_take_reverse_mode_alone(options, text):
    """What cannot be done in step is refused; what is left open becomes reverse mode, rebuilt."""
    case = tied_mlp()
    problem = Problem(case.model, case.batches(), case.loss, backend=Sharding())
    with pytest.raises(ValueError, match=text):
        Engine(problem, EngineOptions(**options))
    assert Engine(problem, EngineOptions()).options == EngineOptions(strategy="reverse", cache="rebuild")
