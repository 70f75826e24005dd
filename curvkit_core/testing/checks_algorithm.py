"""The laws of algorithms: claims that hold at any moment, products that are counted, runs that go on bit for bit."""

from __future__ import annotations

import inspect
import math
import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from curvkit_core.algorithms import Algorithm, run
from curvkit_core.results import load_result, save_result
from curvkit_core.testing.algorithm_truths import truth_of
from curvkit_core.testing.check import LawBrokenError, Record, SkippedError, check
from curvkit_core.testing.left_as_it_was import differences, snapshot
from curvkit_core.testing.matrices import CountedOperator, indefinite_matrix, psd_matrix, skewed_matrix
from curvkit_core.testing.subject import Subject

__all__ = ["CHECKS"]

_POSITIVE = ("psd-only", "solve", "logdet", "matrix-function")
_PLAIN = (bool, int, float, str, bytes, type(None))


def _matrices(subject: Subject) -> list[Tensor]:
    """What its tags let it take: positive always, then indefinite."""
    return [psd_matrix()] if subject.tagged(*_POSITIVE) else [psd_matrix(), indefinite_matrix()]


def _inputs(subject: Subject, algorithm: Any, op: CountedOperator) -> dict[str, Any]:
    """The case's tensors, or a right-hand side where ``init`` takes one."""
    if subject.case.inputs is not None:
        return dict(subject.case.inputs(op.space))
    takes = inspect.signature(algorithm.init).parameters
    return {"b": op.space.random("gaussian", 99, 0, 2)} if "b" in takes else {}


def _run(subject: Subject, matrix: Tensor, **options: Any) -> tuple[Any, CountedOperator]:
    algorithm, op = subject.build(), CountedOperator(matrix)
    return run(algorithm, op, inputs=_inputs(subject, algorithm, op), **options), op


def _hold_claims(subject: Subject, matrix: Tensor, result: Any, record: Record) -> None:
    truth = subject.case.truth or truth_of(result)
    if truth is None:
        msg = (
            f"{type(result).__name__} is none of core's result types, and no truth was handed in: "
            f"Case(component={subject.name!r}, truth=...)"
        )
        raise SkippedError(msg)
    algorithm = subject.build()
    truth(matrix, algorithm, _inputs(subject, algorithm, CountedOperator(matrix)), result, record)


def _difference(one: Any, other: Any, path: str = "the result") -> str:
    """Where two results differ, field by field, bit by bit, provenance and times left out; empty where nowhere."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = (
            one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        )
        return "" if same and torch.equal(one.isnan(), other.isnan()) else path
    if attrs.has(type(one)) and type(one) is type(other):
        names = [f.name for f in attrs.fields(type(one)) if f.name != "info"]
        found = (_difference(getattr(one, n), getattr(other, n), f"{path}.{n}") for n in names)
        return next((place for place in found if place), "")
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((place for i, (a, b) in pairs if (place := _difference(a, b, f"{path}.{i}"))), "")
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return "" if both_nan or one == other else path


@check("algorithm")
def protocol(subject: Subject, record: Record) -> None:
    """A frozen attrs class with init, ask, tell and result, whose fields are plain and hashable."""
    cls = subject.factory
    record.true(isinstance(cls, type) and attrs.has(cls), f"{cls!r:.80} is no attrs class")
    frozen = getattr(cls, "__setattr__", None) is not object.__setattr__
    record.true(frozen and "frozen" in repr(cls.__setattr__), f"{cls.__name__} is not frozen: use @attrs.frozen")
    algorithm = subject.build()
    record.true(isinstance(algorithm, Algorithm), f"{cls.__name__} lacks one of init, ask, tell, result")
    for field in attrs.fields(cls):
        value = getattr(algorithm, field.name)
        items = value if isinstance(value, tuple) else (value,)
        plain = all(isinstance(item, _PLAIN) for item in items)
        record.true(plain, f"its field {field.name} is a {type(value).__name__}: tensors come in through init")
    record.true(hash(algorithm) == hash(subject.build()), "equal configurations have different hashes")


@check("algorithm")
def claims(subject: Subject, record: Record) -> None:
    """What the finished result claims (residuals, error bars, factorisation) is true of matrices with known spectra."""
    for matrix in _matrices(subject):
        result, _ = _run(subject, matrix)
        _hold_claims(subject, matrix, result, record)


@check("algorithm")
def claims_at_any_moment(subject: Subject, record: Record) -> None:
    """Ended by a budget after 1, 2, 3, 5, 8, 13 or 21 products it gives a result, and what that claims is true."""
    matrix = _matrices(subject)[-1]
    for budget in (1, 2, 3, 5, 8, 13, 21):
        result, op = _run(subject, matrix, max_matvecs=budget)
        record.at_most("products beyond the budget", op.num_matvecs - budget, 0)
        _hold_claims(subject, matrix, result, record)


@check("algorithm")
def ends(subject: Subject, record: Record) -> None:
    """With its own options it comes to an end: within 5,000 products of a matrix of size 40."""
    matrix = _matrices(subject)[0]
    result, op = _run(subject, matrix, max_matvecs=5000)
    info = getattr(result, "info", None)
    record.note("products", op.num_matvecs)
    record.true(info is None or not info.interrupted, f"{op.num_matvecs} products were not enough for its own end")


@check("algorithm")
def counts_products(subject: Subject, record: Record) -> None:
    """A3: the result's count of products is the operator's own, and is told in `num_matvecs`."""
    for budget in (None, 7):
        result, op = _run(subject, psd_matrix(), max_matvecs=budget)
        record.true(hasattr(result, "num_matvecs"), f"{type(result).__name__} has no field num_matvecs")
        record.equal("num_matvecs", result.num_matvecs, op.num_matvecs)
        record.more_than("products", op.num_matvecs, 0)


@check("algorithm")
def any_width(subject: Subject, record: Record) -> None:
    """However many rows are multiplied at once, it asks for no more, and its claims hold; asking moves nothing."""
    matrix = _matrices(subject)[0]
    for width in (1, 3, 64):
        result, _ = _run(subject, matrix, max_rows=width)
        _hold_claims(subject, matrix, result, record)
    algorithm, op = subject.build(), CountedOperator(matrix)
    state = algorithm.init(op.space, **_inputs(subject, algorithm, op))
    first, second = (algorithm.ask(state, 4) for _ in range(2))
    if first is not None:
        record.true(
            second is not None and torch.equal(first, second), "asked twice in one state it gives other vectors"
        )


@check("algorithm")
def seed(subject: Subject, record: Record) -> None:
    """The same seed gives the same bits, whatever torch's generator says, which is not moved; another seed others."""
    matrix = psd_matrix()
    before = snapshot(None, [])
    first, _ = _run(subject, matrix)
    moved = differences(before, snapshot(None, []))
    record.true(not moved, f"not as it was: {', '.join(moved)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4321)
        second, _ = _run(subject, matrix)
    record.equal("where two runs of one seed differ", _difference(first, second), "")
    if not subject.tagged("stochastic"):
        return
    record.true(subject.has_option("seed"), 'it has the tag "stochastic" and no option "seed"')
    algorithm, op = subject.build(seed=7), CountedOperator(matrix)
    other = run(algorithm, op, inputs=_inputs(subject, algorithm, op))
    differs = _difference(attrs.evolve(first, **_no_seed(first)), attrs.evolve(other, **_no_seed(other)))
    record.true(differs, "seeds 0 and 7 give the same result: the seed is ignored")


def _no_seed(result: Any) -> dict[str, Any]:
    return {"seed": 0} if "seed" in attrs.fields_dict(type(result)) else {}


@check("algorithm")
def resumes(subject: Subject, record: Record) -> None:
    """A4: stopped after 1, 4 or 11 products, with all state read from files, it goes on to the same bits."""
    matrix = _matrices(subject)[-1]
    whole, all_op = _run(subject, matrix, max_rows=3)
    for stop in (1, 4, 11):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "checkpoint"
            _run(subject, matrix, max_rows=3, max_matvecs=stop, checkpoint=folder)
            _run(
                subject, 2 * matrix + torch.eye(len(matrix)), max_matvecs=5
            )  # whatever is kept outside the state moves
            resumed, op = _run(subject, matrix, checkpoint=folder)
        record.equal(f"where the run stopped after {stop} differs", _difference(whole, resumed), "")
        record.equal("products after the stop", op.num_matvecs, max(all_op.num_matvecs - stop, 0))


@check("algorithm")
def scale(subject: Subject, record: Record) -> None:
    """A2: of 2^-60 A and 2^60 A its claims hold as of A: no threshold has a unit of its own."""
    if subject.tagged("logdet") or any(subject.has_option(name) and _option(subject, name) for name in ("damping",)):
        msg = "its damping has the operator's unit"
        raise SkippedError(msg)
    matrix = _matrices(subject)[0]
    plain, op = _run(subject, matrix)
    for factor in (2.0**-60, 2.0**60):
        result, scaled_op = _run(subject, factor * matrix)
        _hold_claims(subject, factor * matrix, result, record)
        record.equal(f"products of {factor:.1e} A", scaled_op.num_matvecs, op.num_matvecs)
        if hasattr(plain, "converged") and not callable(plain.converged):
            one, other = (torch.as_tensor(r.converged if r.converged is not None else False) for r in (plain, result))
            record.true(
                torch.equal(one, other), f"converged is {other.tolist()} for {factor:.1e} A, {one.tolist()} for A"
            )


def _option(subject: Subject, name: str) -> Any:
    return getattr(subject.build(), name)


@check("algorithm")
def needs_symmetric(subject: Subject, record: Record) -> None:
    """The tag "symmetric-only" says what `needs_symmetric` does; without it, claims hold of A that is not symmetric."""
    algorithm = subject.build()
    needs = bool(getattr(algorithm, "needs_symmetric", False))
    if subject.tagged("psd-only"):
        record.true(needs, 'it has the tag "psd-only", and needs_symmetric is not set')
        return
    record.equal('the tag "symmetric-only"', subject.tagged("symmetric-only"), needs)
    if not needs:
        matrix = skewed_matrix()
        op = CountedOperator(matrix, symmetric=False)
        _hold_claims(subject, matrix, run(algorithm, op, inputs=_inputs(subject, algorithm, op)), record)


@check("algorithm")
def small_and_special(subject: Subject, record: Record) -> None:
    """A5: for n = 1, the identity and zero it keeps its claims, or refuses its options with a ValueError in words."""
    eye = torch.eye(12, dtype=torch.float64)
    for name, matrix in (("n = 1", eye[:1, :1] * 3), ("the identity", eye), ("zero", eye * 0)):
        try:
            result, _ = _run(subject, matrix, max_matvecs=500)
        except ValueError as error:
            record.true(str(error).strip(), f"for {name} it raises a ValueError without a word")
            continue
        try:
            _hold_claims(subject, matrix, result, record)
        except LawBrokenError as error:
            msg = f"for {name}: {error}"
            raise LawBrokenError(msg) from None


@check("algorithm")
def progress(subject: Subject, record: Record) -> None:
    """Progress never goes back, nor past its total."""
    events: list[Any] = []
    _run(subject, psd_matrix(), on_progress=events.append)
    record.more_than("events", len(events), 0)
    done = [event.done for event in events]
    record.true(done == sorted(done), f"it goes back: {done[:20]}")
    past = [event for event in events if event.total is not None and event.done > event.total]
    record.true(not past, f"it passes its total: {past[:1]}")


@check("algorithm")
def result_is_kept(subject: Subject, record: Record) -> None:
    """The result is a frozen attrs class with words on what its error covers, and is saved and read back."""
    result, _ = _run(subject, psd_matrix())
    record.true(attrs.has(type(result)), f"{type(result).__name__} is no attrs class")
    covers = getattr(result, "error_covers", "")
    record.true(isinstance(covers, str) and covers.strip(), f"{type(result).__name__}.error_covers says nothing")
    with tempfile.TemporaryDirectory() as made:
        save_result(result, Path(made) / "result")
        found = load_result(Path(made) / "result", types=[type(result)])
    record.equal("what is lost in a file", _difference(result, found), "")


CHECKS = (
    protocol,
    claims,
    claims_at_any_moment,
    ends,
    counts_products,
    any_width,
    seed,
    resumes,
    scale,
    needs_symmetric,
    small_and_special,
    progress,
    result_is_kept,
)
