r"""The linearization and the operator on one small microbatch, once a problem and kind of operator.

Two products of the operator are made on a linearization that records what it is asked. The first is along
:math:`\hat g + \hat z`: the gradient's direction, in which the curvature is large enough to be seen, and a random
one, in which every parameter takes part. The second is along the first product, where a wrong transpose shows for
any n; or, in a network with kinks, along the first direction's part behind the last kink.

At most 12 gradients: 1 at theta, 5 for two Hessian products on one graph, 6 on the ladder; 8 where the ladder's first
step tells. A GGN's: 7, and 5 to 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from curvkit_core.checks.base_point import BasePoint, base_point
from curvkit_core.checks.captured_parameters import check_captured
from curvkit_core.checks.derivatives import judge_hvp, judge_jvp, judge_loss_curvature
from curvkit_core.checks.difference_ladder import Judgement, norm
from curvkit_core.checks.finding import Finding, note, remember, report
from curvkit_core.checks.recorded import Call, RecordedLinearization
from curvkit_core.checks.repeatability import check_repeats
from curvkit_core.checks.transposes import asymmetry, transpose_gap
from curvkit_core.linearize import Engine, EngineOptions, Linearization
from curvkit_core.losses.batch_tree import tensors
from curvkit_core.problem.batches import microbatches
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["Kind", "probe"]

#: A larger microbatch is cut to so many rows.
ROWS = 16

_MEND_LOSS = (
    "look for a loss or layer that computes its gradient in the forward pass (torch's linear_cross_entropy with "
    "options=, fused losses), detaches part of it, or differentiates once only (once_differentiable, checkpoint with "
    "use_reentrant=True); use the plain one for curvature."
)


@frozen(kw_only=True, eq=False)
class Kind:
    """What a probe needs to know of an operator.

    Parameters
    ----------
    name : str
        For messages.
    batch_product : callable
        ``(lin, batch, V)`` -> rows.
    symmetric : bool
        Whether the operator says so.
    options : EngineOptions
        The operator's own.
    """

    name: str
    batch_product: Callable[[Linearization, Any, Tensor], Tensor]
    symmetric: bool
    options: EngineOptions


def probe(problem: Problem, kind: Kind, piece: Piece, *, reverse: bool) -> None:
    """Check the first microbatch; `reverse` says whether the pass linearized it by reverse mode."""
    base, piece = _base_on_few_rows(problem, piece)
    check_captured(problem, base.facts)
    if not base.reaches:
        remember(problem, "the loss depends on none of the chosen parameters: its curvature in them is zero.")
    if not _all_finite(base.gradient):
        return
    strategy = "reverse" if reverse else kind.options.strategy
    engine = Engine(problem, EngineOptions(strategy=strategy, cache="rebuild"))
    with engine.linearized(piece) as lin:
        recorded = RecordedLinearization(lin)
        first = _direction(problem, base)
        differences = strategy == "finite-difference"  # opt-in and not exact: there is nothing to hold them against
        first_product = first if differences else kind.batch_product(recorded, piece.batch, first[None])[0]
        # after the product, which ran the forward that a lean linearization has its outputs from
        if not check_repeats(problem, piece, recorded.y, base.y) or differences:
            return
        second = _second_direction(base, first, first_product)
        second_product = kind.batch_product(recorded, piece.batch, second[None])[0]
    if not (_all_finite(first_product) and _all_finite(second_product)):
        return  # the whole microbatch's product is looked at by another check
    _check_derivatives(problem, kind, piece, base, recorded)
    _check_transposes(problem, kind, base, recorded)
    if kind.symmetric:
        _check_symmetry(problem, kind, base, asymmetry(first, first_product, second, second_product))


def _base_on_few_rows(problem: Problem, piece: Piece) -> tuple[BasePoint, Piece]:
    """The base point on the first rows; on all of them where a batch has no rows, or the model takes no fewer."""
    found = list(tensors(piece.batch))
    rows = {t.shape[0] if t.ndim else 0 for t in found}
    if len(rows) == 1 and min(rows) > ROWS:
        few = evolve(piece, batch=next(microbatches(piece.batch, ROWS)))
        try:
            return base_point(problem, few), few
        except Exception:  # noqa: BLE001 - whatever a model built for one size of batch raises on another
            return base_point(problem, piece), piece
    return base_point(problem, piece), piece


def _direction(problem: Problem, base: BasePoint) -> Tensor:
    z = problem.space.random("gaussian", 0, 0, 1)[0]
    direction = z / norm(z)
    length = norm(base.gradient)
    if length == 0.0:
        return direction
    toward = base.gradient / length
    return toward + direction if float(toward @ direction) >= 0.0 else toward - direction  # with few parameters: not 0


def _second_direction(base: BasePoint, first: Tensor, product: Tensor) -> Tensor:
    behind = first * base.behind
    if base.facts.kink and norm(behind) > 0.0:
        return behind / norm(behind)
    length = norm(product)
    return product / length if 0.0 < length < float("inf") else first


def _check_derivatives(
    problem: Problem, kind: Kind, piece: Piece, base: BasePoint, recorded: RecordedLinearization
) -> None:
    call = recorded.first("jvp")
    if call is not None:
        _tell(problem, kind, "J v and differences of the outputs", lambda: judge_jvp(problem, piece, base, call))
    hvp_calls = [c for c in recorded.calls if c.name == "hvp"]
    if hvp_calls:
        _tell(
            problem,
            kind,
            "the Hessian's product and differences of the gradient",
            lambda: _judge_hvps(problem, piece, base, hvp_calls),
        )
    curved = recorded.first("loss_curvature")
    if curved is not None and len(recorded.y) == 1 and getattr(problem.loss, "ggn_is_hessian", True):
        _tell(
            problem,
            kind,
            f"{type(problem.loss).__name__}'s curvature in the outputs and differences of its slope",
            lambda: judge_loss_curvature(problem, piece, curved, recorded.y),
            code="loss-curvature-disagrees",
            mend="correct the loss adapter's ggn, or a loss_sum that detaches part of its gradient; where ggn is meant "
            "as less than the whole Hessian in the outputs, give the adapter the attribute ggn_is_hessian = False.",
        )


def _judge_hvps(problem: Problem, piece: Piece, base: BasePoint, calls: list[Call]) -> Judgement:
    """The first call; in a network with kinks then the one along what lies behind them, which can be shown wrong."""
    judged = judge_hvp(problem, piece, base, calls[0])
    if judged.verdict == "inconclusive" and base.facts.kink:
        for call in calls[1:]:
            if not bool(call.given[0][0][~base.behind].any()):
                behind = judge_hvp(problem, piece, base, call)
                return behind if behind.verdict == "wrong" else judged
    return judged


def _tell(
    problem: Problem,
    kind: Kind,
    what: str,
    judge: Callable[[], Judgement],
    *,
    code: str = "product-disagrees",
    mend: str = _MEND_LOSS,
) -> None:
    try:
        judged = judge()
    except Exception as error:  # noqa: BLE001 - a model or loss may not run at displaced parameters, in other dtypes
        note(problem, code, f"{kind.name}: {what} could not be compared: {type(error).__name__}: {error}")
        return
    seen = f"{kind.name}: {what} differ {judged.seen}."
    if judged.verdict == "wrong":
        report(problem, Finding(code=code, seen=seen, mend=mend))
    elif judged.verdict == "inconclusive":
        note(problem, code, seen)


def _check_transposes(problem: Problem, kind: Kind, base: BasePoint, recorded: RecordedLinearization) -> None:
    gap = transpose_gap(recorded.calls)
    if gap > base.tolerance:
        seen = (
            f"{kind.name}: <J v, u> and <v, J^T u> differ by {gap:.2g} of their size (tolerance {base.tolerance:.1g})."
        )
        mend = "look for an autograd Function whose jvp, vmap or backward is not the derivative of its forward."
        _refuse_or_note(problem, base, Finding(code="transpose-disagrees", seen=seen, mend=mend))


def _check_symmetry(problem: Problem, kind: Kind, base: BasePoint, gap: float) -> None:
    if gap > base.tolerance:
        seen = f"{kind.name}: <A u, w> and <u, A w> differ by {gap:.2g} of their size (tolerance {base.tolerance:.1g})."
        mend = f"correct its batch_product, or a part that it uses; {_MEND_LOSS}"
        _refuse_or_note(problem, base, Finding(code="operator-not-symmetric", seen=seen, mend=mend))


def _refuse_or_note(problem: Problem, base: BasePoint, finding: Finding) -> None:
    if base.low_precision:
        note(problem, finding.code, finding.seen)
    else:
        report(problem, finding)


def _all_finite(vector: Tensor) -> bool:
    return bool(torch.isfinite(vector).all())
