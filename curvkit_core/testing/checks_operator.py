"""The laws of operators: what is symmetric, linear, whole, and leaves the user's model as it was.

They run on the problem of the case, or on the kit's ``mlp`` in float64 (a layer used twice, one never, ignored
targets). Laws that need a model made for them (tied layers, unused ones, ignored targets) run on the kit's alone.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from curvkit_core.operators import CurvatureOperator
from curvkit_core.problem import Problem
from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.left_as_it_was import differences, snapshot
from curvkit_core.testing.measures import dense, directions, gap, rounding
from curvkit_core.testing.subject import Subject
from curvkit_core.testing.tiny_problems import TinyProblem, tiny_problem
from curvkit_core.testing.variants import ScaledLoss, retold, singles, untied_twin, with_ignored_rows

__all__ = ["CHECKS"]

_SCALE = 2.0**-20  # exact in floating point, and far from one


def _problem(subject: Subject) -> Problem:
    """The case's problem, or the kit's own."""
    if subject.case.problem is None:
        return _tiny(subject).problem()
    made = subject.case.problem()
    model = subject.prepared(made.model)
    return made if model is made.model else retold(made, model=model)


def _tiny(subject: Subject) -> TinyProblem:
    """The kit's own problem, for laws that need it."""
    if subject.case.problem is not None:
        msg = "it needs the kit's own model, and the case brings another"
        raise SkippedError(msg)
    tiny = tiny_problem("mlp")
    return evolve(tiny, model=subject.prepared(tiny.model))


def _operator(subject: Subject, problem: Problem | None = None, **options: Any) -> CurvatureOperator:
    problem = _problem(subject) if problem is None else problem
    op = subject.build(problem, **options)
    if not isinstance(op, CurvatureOperator):
        msg = f"the factory gave a {type(op).__name__}: expected a curvkit_core.CurvatureOperator"
        raise AssertionError(msg)
    return op


def _fixed(op: CurvatureOperator) -> CurvatureOperator:
    """The operator, if all its products are of one matrix."""
    if not op.deterministic:
        msg = "every product is of another matrix, as the operator says of itself"
        raise SkippedError(msg)
    return op


def _parameters_of(op: CurvatureOperator, problem: Problem) -> None:
    if op.n != problem.parameters.n:
        msg = f"its vectors (n={op.n}) are not the problem's parameters (n={problem.parameters.n})"
        raise SkippedError(msg)


def _differ(one: CurvatureOperator, other: CurvatureOperator) -> float:
    """How far two operators lie apart, by three vectors."""
    V = directions(one.space, 3)
    return gap(other.apply(V), one.apply(V))


@check("operator")
def shape(subject: Subject, record: Record) -> None:
    """Shape (n, n); products have the shape, dtype and device of the vectors, which are float32 at least."""
    problem = _problem(subject)
    op = _operator(subject, problem)
    record.equal("the shape", op.shape, (op.n, op.n))
    record.true(op.dtype in (torch.float32, torch.float64), f"the dtype is {op.dtype}, expected float32 or float64")
    for rows in (1, 3):
        V = directions(op.space, rows)
        AV = op.apply(V)
        record.equal("the product's shape", tuple(AV.shape), tuple(V.shape))
        record.equal("the product's dtype", AV.dtype, op.dtype)
        record.equal("the product's device", AV.device, op.device)
        record.true(bool(AV.isfinite().all()), "a product holds inf or NaN")
    v = directions(op.space, 1)[0]
    record.equal("the shape of A @ v", tuple((op @ v).shape), (op.n,))


@check("operator")
def narrow_parameters(subject: Subject, record: Record) -> None:
    """With float32 parameters its products are those of float64 to 3e-5; with bfloat16 ones its vectors are float32."""
    tiny = _tiny(subject)
    wide = _fixed(_operator(subject, tiny.problem()))
    V = directions(wide.space, 2)
    truth = wide.apply(V)
    for dtype in (torch.float32, torch.bfloat16):
        tiny = _tiny(subject)
        narrow = evolve(tiny, model=tiny.model.to(dtype), inputs=tiny.inputs.to(dtype))
        op = _operator(subject, narrow.problem())
        record.equal(f"the vectors' dtype with {dtype} parameters", op.dtype, torch.float32)
        found = op.apply(V.float())
        record.equal(f"the product's dtype with {dtype} parameters", found.dtype, torch.float32)
        record.true(bool(found.isfinite().all()), f"a product with {dtype} parameters holds inf or NaN")
        if dtype == torch.float32:
            # core's operators come to 3e-7; float16 anywhere on the way to 3e-4
            record.at_most("the relative gap of float32 to float64", gap(found, truth), 3e-5)


@check("operator")
def linear(subject: Subject, record: Record) -> None:
    """L1: A(a v + b w) = a A v + b A w."""
    op = _fixed(_operator(subject))
    v, w = directions(op.space, 2)
    for a, b in ((2.0, -3.0), (1e-3, 1e3)):
        found = (op @ (a * v + b * w))[None]
        record.at_most("the relative gap", gap(found, (a * (op @ v) + b * (op @ w))[None]), rounding(op.dtype))


@check("operator")
def symmetric(subject: Subject, record: Record) -> None:
    """L2: <A v, w> = <v, A w> where the operator says it is symmetric, else <A v, w> = <v, A^T w>."""
    op = _fixed(_operator(subject))
    flipped = op.transposed()
    if flipped is None:
        msg = "it says that it is not symmetric, and gives no transpose"
        raise SkippedError(msg)
    V = directions(op.space, 4)
    left, right = op.space.gram(op.apply(V), V), op.space.gram(V, flipped.apply(V))
    record.at_most("the relative gap of <A v, w> and <v, A^T w>", gap(left, right), rounding(op.dtype))


@check("operator", concerns=lambda spec: "psd" in spec.tags)
def psd(subject: Subject, record: Record) -> None:
    """L3: <v, A v> >= 0, as the tag "psd" says; for losses convex in the outputs."""
    op = _fixed(_operator(subject))
    V = directions(op.space, 8)
    AV = op.apply(V)
    if op.n <= 512:
        values = torch.linalg.eigvalsh((dense(op) + dense(op).mT) / 2)
        record.at_most("minus the least eigenvalue", -float(values[0]), rounding(op.dtype) * float(values.abs().max()))
    forms = op.space.dots(V, AV)
    sizes = op.space.norms(V) * op.space.norms(AV)
    record.at_most("minus the least <v, A v> / |v||A v|", -float((forms / sizes.clamp_min(1e-300)).min()), 1e-3)


@check("operator")
def tags(subject: Subject, record: Record) -> None:
    """The tags "symmetric" and "stochastic" say what the operator says of itself."""
    op = _operator(subject)
    record.equal("the tag 'symmetric'", subject.tagged("symmetric"), op.symmetric)
    record.equal("the tag 'stochastic'", subject.tagged("stochastic"), not op.deterministic)
    both = subject.tagged("exact") and subject.tagged("approximate")
    record.true(not both, "it has the tags 'exact' and 'approximate'")


@check("operator")
def any_cut(subject: Subject, record: Record) -> None:
    """L6: the data's cut into batches and microbatches changes nothing: sums are added, and divided once."""
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    one_each = _operator(subject, retold(problem, batches=singles(problem)))
    record.at_most("the relative gap, a row a batch", _differ(op, one_each), rounding(op.dtype))
    cut = _operator(subject, retold(problem, microbatch_size=2))
    record.at_most("the relative gap, microbatches of 2 rows", _differ(op, cut), rounding(op.dtype))


@check("operator")
def any_order_and_twice(subject: Subject, record: Record) -> None:
    """L6: the data in another order, or given twice, is the same operator: a mean over units, not a sum."""
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    rows = singles(problem)
    turned = _operator(subject, retold(problem, batches=rows[::-1]))
    record.at_most("the relative gap, rows reversed", _differ(op, turned), rounding(op.dtype))
    twice = _operator(subject, retold(problem, batches=rows + rows))
    record.at_most("the relative gap, the data twice", _differ(op, twice), rounding(op.dtype))


@check("operator")
def ignored_targets(subject: Subject, record: Record) -> None:
    """L7: rows whose targets are ignored change nothing, whatever they hold."""
    tiny = _tiny(subject)
    op = _fixed(_operator(subject, tiny.problem()))
    longer = _operator(subject, with_ignored_rows(tiny).problem((1, 5, 6)))
    record.at_most("the relative gap", _differ(op, longer), rounding(op.dtype))


@check("operator")
def loss_scale(subject: Subject, record: Record) -> None:
    """L8: the loss times c gives c times the operator, or c^2 times where it is made of products of two gradients."""
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    V = directions(op.space, 3)
    whole = op.apply(V)
    scaled = _operator(subject, retold(problem, loss=ScaledLoss(problem.loss, _SCALE))).apply(V)
    gaps = [gap(scaled, _SCALE**power * whole) for power in (1, 2)]
    record.at_most("the relative gap to c A, or to c^2 A,", min(gaps), rounding(op.dtype))


@check("operator")
def subset(subject: Subject, record: Record) -> None:
    """L9: the operator of some parameters is that submatrix of the whole."""
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    _parameters_of(op, problem)
    entries = problem.parameters.entries
    if len(entries) < 2:
        msg = "the problem has one parameter"
        raise SkippedError(msg)
    chosen = entries[: max(1, len(entries) // 2)]
    part = _operator(subject, problem.restrict([entry.name for entry in chosen]))
    places = torch.cat([torch.arange(e.place.start, e.place.stop) for e in chosen])
    record.equal("the part's size", part.n, len(places))
    V = directions(part.space, 3)
    wide = op.space.zeros(3)
    wide[:, places] = V
    record.at_most("the relative gap", gap(part.apply(V), op.apply(wide)[:, places]), rounding(op.dtype))


@check("operator")
def tied_parameters(subject: Subject, record: Record) -> None:
    """L10: with a layer used twice it is E^T A E, A being that of the model whose uses are layers of their own."""
    tiny = _tiny(subject)
    twin, E = untied_twin(tiny)
    tied, untied = (_fixed(_operator(subject, t.problem())) for t in (tiny, twin))
    V = directions(tied.space, 3)
    record.at_most("the relative gap", gap(tied.apply(V), untied.apply(V @ E.mT) @ E), rounding(tied.dtype))


@check("operator")
def unused_parameters(subject: Subject, record: Record) -> None:
    """L11: a parameter that the loss does not depend on has zeros: in each product, and times its own unit vectors."""
    tiny = _tiny(subject)
    problem = tiny.problem()
    op = _fixed(_operator(subject, problem))
    places = [e.place for e in problem.parameters.entries if e.name.startswith("unused")]
    V = directions(op.space, 3)
    inside = torch.zeros_like(V)
    for place in places:
        inside[:, place] = V[:, place]
    AV = op.apply(V)
    largest = float(AV.abs().max())
    record.at_most("the largest entry in an unused parameter", max(float(AV[:, p].abs().max()) for p in places), 0.0)
    record.at_most("the product with an unused parameter", float(op.apply(inside).abs().max()), 1e-15 * largest)


@check("operator")
def strategies(subject: Subject, record: Record) -> None:
    """L12: strategies and cache policies, where it has these options, change cost and never the product."""
    if not (subject.has_option("strategy") and subject.has_option("cache")):
        msg = "its configuration has no options 'strategy' and 'cache'"
        raise SkippedError(msg)
    first = _fixed(_operator(subject, strategy="reverse", cache="rebuild"))
    for options in ({"strategy": "reverse", "cache": "keep"}, {"strategy": "lean", "cache": "rebuild"}):
        try:
            other = _operator(subject, **options)
            found = _differ(first, other)
        except (TypeError, ValueError, NotImplementedError) as error:
            # a strategy that an operator cannot have is refused by name: better than another product
            record.true(str(error).strip(), f"{options} raised {type(error).__name__} without a word")
            continue
        record.at_most(f"the relative gap of {options['strategy']}, {options['cache']}", found, rounding(first.dtype))


@check("operator")
def apply_is_products(subject: Subject, record: Record) -> None:
    """L13: apply(V) is the products with V's rows, one by one, also where it is put into memory beside V."""
    op = _fixed(_operator(subject))
    V = directions(op.space, 3)
    singly = torch.stack([op @ v for v in V])
    record.at_most("the relative gap", gap(op.apply(V), singly), rounding(op.dtype))
    both = torch.cat([V, torch.full_like(V, float("nan"))])
    op.apply(both[:3], out=both[3:])
    record.at_most("the relative gap of what is put into out", gap(both[3:], singly), rounding(op.dtype))
    record.true(torch.equal(both[:3], V), "the vectors beside out were written to")


@check("operator")
def repeats(subject: Subject, record: Record) -> None:
    """L14: the same product twice, and by an operator made anew, is bitwise the same on the CPU."""
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    V = directions(op.space, 2)
    first = op.apply(V).clone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)  # products that read a global generator differ
        again = op.apply(V)
        anew = _operator(subject, problem).apply(V)
    record.true(torch.equal(first, again), f"the second product differs by {gap(again, first):.2g}")
    record.true(torch.equal(first, anew), f"an operator made anew differs by {gap(anew, first):.2g}")


@check("operator")
def leaves_all_as_it_was(subject: Subject, record: Record) -> None:
    """L15: model, buffers, gradients, modes, hooks, data and random state are bitwise as before, and V is."""
    problem = _problem(subject)
    for index, module in enumerate(problem.model.modules()):
        module.training = index % 2 == 0  # each module's own mode must come back
    if subject.case.problem is None:
        for parameter in list(problem.model.parameters())[::2]:
            parameter.grad = torch.full_like(parameter, 0.5)  # a gradient in the middle of its accumulation
    batches = list(problem.batches)
    V = directions(_operator(subject, problem).space, 2)
    before, copy = snapshot(problem.model, batches), V.clone()
    op = _operator(subject, problem)
    _ = op.apply(V), op.apply(V)
    moved = differences(before, snapshot(problem.model, batches))
    record.true(not moved, f"not as it was: {', '.join(moved)}")
    record.true(torch.equal(V, copy), "the vectors that were given were written to")


@check("operator")
def product_is_the_callers(subject: Subject, record: Record) -> None:
    """A product may be overwritten: the next one is what it was."""
    op = _fixed(_operator(subject))
    V = directions(op.space, 2)
    first = op.apply(V)
    kept = first.clone()
    first.fill_(float("nan"))
    record.at_most("the relative gap of the next product", gap(op.apply(V), kept), rounding(op.dtype))


@check("operator")
def dense_match(subject: Subject, record: Record) -> None:
    """The matrix, column by column, is the one that the case's truth gives by another path."""
    if subject.case.truth is None:
        msg = f"no truth was handed in: Case(component={subject.name!r}, truth=lambda problem: dense matrix)"
        raise SkippedError(msg)
    problem = _problem(subject)
    op = _fixed(_operator(subject, problem))
    truth: Tensor = subject.case.truth(problem)
    found = dense(op)
    record.equal("the matrix's shape", tuple(found.shape), tuple(truth.shape))
    record.more_than("the truth's norm", float(truth.norm()), 0.0)
    record.at_most("the relative gap", gap(found, truth), rounding(op.dtype))
    record.more_than("the gap of a matrix wrong by 1e-3", gap(1.001 * found, truth), rounding(op.dtype))


CHECKS = (
    shape,
    narrow_parameters,
    linear,
    symmetric,
    psd,
    tags,
    any_cut,
    any_order_and_twice,
    ignored_targets,
    loss_scale,
    subset,
    tied_parameters,
    unused_parameters,
    strategies,
    apply_is_products,
    repeats,
    leaves_all_as_it_was,
    product_is_the_callers,
    dense_match,
)
