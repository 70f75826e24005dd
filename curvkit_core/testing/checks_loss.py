"""The laws of loss adapters: sums that add up, a curvature that is the loss's own, a model that is only read.

What they run on is in `loss_setting.py`.
"""

from __future__ import annotations

import fnmatch
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvkit_core.kernels import Kernels
from curvkit_core.losses import (
    BindsToModel,
    ComputesUnitLosses,
    GivesGGN,
    PreparesSecondOrder,
    SamplesTargets,
    UsesKernels,
)
from curvkit_core.losses.batch_tree import tensors
from curvkit_core.operators import HessianOperator
from curvkit_core.problem import Problem
from curvkit_core.problem.batches import microbatches
from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.left_as_it_was import differences, snapshot
from curvkit_core.testing.loss_setting import bound, made_loss, model_and_batches, outputs, setting, with_outputs
from curvkit_core.testing.measures import directions, gap, rounding
from curvkit_core.testing.subject import Subject

__all__ = ["CHECKS"]


def _limit(y: tuple[Tensor, ...]) -> float:
    narrow = any(part.dtype in (torch.bfloat16, torch.float16) for part in y)
    wide = all(part.dtype == torch.float64 for part in y)
    return 0.05 if narrow else rounding(torch.float64 if wide else torch.float32)


def _scalar_gap(found: Any, expected: Any) -> float:
    return gap(torch.as_tensor(float(found)), torch.as_tensor(float(expected)))


@check("loss adapter", prefix="loss")
def outputs_are_graph_tensors(subject: Subject, record: Record) -> None:
    """`outputs` gives a tuple of finite tensors with a graph to the model's parameters."""
    loss, model, batches = setting(subject)
    y = outputs(loss, model, batches[0])
    record.true(isinstance(y, tuple) and y, f"outputs gave a {type(y).__name__}, expected a tuple of tensors")
    record.true(all(isinstance(part, Tensor) for part in y), "outputs gave a tuple with an item that is no tensor")
    record.true(all(bool(part.detach().isfinite().all()) for part in y), "an output holds inf or NaN")
    record.true(any(part.requires_grad for part in y), "no output has a graph: was something detached?")
    record.note("output tensors", len(y))


@check("loss adapter", prefix="loss")
def sums_add_up(subject: Subject, record: Record) -> None:
    """loss_sum and num_units of a batch are the sums of those of its rows: never means."""
    loss, model, batches, y = with_outputs(subject)
    limit = _limit(y)
    for batch in batches:
        rows = list(microbatches(batch, 1))
        record.more_than("rows of a batch", len(rows), 1)
        with torch.no_grad():
            whole = float(loss.loss_sum(loss.outputs(model, batch), batch))
            parts = [float(loss.loss_sum(loss.outputs(model, row), row)) for row in rows]
        record.at_most("the relative gap of the losses", _scalar_gap(sum(parts), whole), limit)
        units = [float(loss.num_units(row)) for row in rows]
        record.at_most("the relative gap of the units", _scalar_gap(sum(units), float(loss.num_units(batch))), limit)
    record.more_than("units of a batch", float(loss.num_units(batches[0])), 0.0)


@check("loss adapter", prefix="loss")
def reference(subject: Subject, record: Record) -> None:
    """loss_sum and num_units are those that the case's truth gives by another path."""
    if subject.case.truth is None:
        msg = f"no truth was handed in: Case(component={subject.name!r}, truth=lambda model, batch: (sum, units))"
        raise SkippedError(msg)
    loss, model, batches, y = with_outputs(subject)
    for batch in batches:
        total, units = subject.case.truth(model, batch)
        with torch.no_grad():
            found = float(loss.loss_sum(loss.outputs(model, batch), batch))
        record.at_most("the relative gap of the loss", _scalar_gap(found, total), _limit(y))
        record.at_most("the relative gap of the units", _scalar_gap(loss.num_units(batch), units), _limit(y))


@check("loss adapter", prefix="loss")
def ignored_content(subject: Subject, record: Record) -> None:
    """Padding and rows whose targets are ignored change neither the sum, nor the units, nor the gradient."""
    add = subject.case.with_ignored
    if add is None:
        if subject.case.model is not None or not subject.has_option("ignore_index"):
            msg = f"nothing to ignore was handed in: Case(component={subject.name!r}, with_ignored=...)"
            raise SkippedError(msg)
        mark = subject.config.ignore_index

        def add(batch: Any) -> Any:
            noise = 7 * torch.ones_like(batch[0][:1])
            return torch.cat([noise, batch[0]]), torch.cat([torch.full_like(batch[1][:1], mark), batch[1]])

    loss, model, batches, y = with_outputs(subject)
    for batch in batches:
        longer = add(batch)
        told = []
        for one in (batch, longer):
            total = loss.loss_sum(outputs(loss, model, one), one)
            slopes = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
            gradient = torch.cat([s.reshape(-1).double() for s in slopes if s is not None])
            told.append((float(total.detach()), float(loss.num_units(one)), gradient))
        (loss_a, units_a, slope_a), (loss_b, units_b, slope_b) = told
        record.at_most("the relative gap of the loss", _scalar_gap(loss_b, loss_a), _limit(y))
        record.at_most("the relative gap of the units", _scalar_gap(units_b, units_a), 1e-12)
        record.at_most("the relative gap of the gradient", gap(slope_b, slope_a), _limit(y))


def _curvature(loss: Any, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The Hessian of loss_sum in y times dy, by double backward."""
    leaves = tuple(part.clone().requires_grad_() for part in y)
    total = loss.loss_sum(leaves, batch)
    slopes = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    inner = torch.stack([(s * d).sum() for s, d in zip(slopes, dy, strict=True)]).sum()
    if not inner.requires_grad:
        return tuple(torch.zeros_like(part) for part in y)
    return torch.autograd.grad(inner, leaves, materialize_grads=True)


def _normal(y: tuple[Tensor, ...], seed: int, rows: int | None = None) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    lead = () if rows is None else (rows,)
    made = [torch.randn(*lead, *part.shape, generator=generator, dtype=torch.float64) for part in y]
    return tuple(d.to(part.dtype).to(part.device) for d, part in zip(made, y, strict=True))


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1).double() for part in parts])


@check("loss adapter", prefix="loss")
def ggn_is_the_curvature(subject: Subject, record: Record) -> None:
    """For one output tensor `ggn` times dy is the Hessian of loss_sum in it times dy, by double backward."""
    loss, _, batches, y = with_outputs(subject)
    if not isinstance(loss, GivesGGN):
        msg = "it gives no closed form: autograd differentiates loss_sum twice"
        if len(y) > 1:
            msg = f"it has {len(y)} output tensors and no ggn: the positive part of its curvature cannot be had"
            raise AssertionError(msg)
        raise SkippedError(msg)
    for seed in (1, 2):
        dy = _normal(y, seed)
        found = loss.ggn(y, batches[0], dy)
        record.equal("the shapes", [tuple(t.shape) for t in found], [tuple(t.shape) for t in y])
        if len(y) == 1:
            expected = _flat(_curvature(loss, y, batches[0], dy))
            record.at_most("the relative gap", gap(_flat(found), expected), _limit(y))
        else:  # the network is linear in each factor of a head alone: there the positive part is the whole Hessian
            for place in range(len(y)):
                alone = tuple(d if i == place else torch.zeros_like(d) for i, d in enumerate(dy))
                part = loss.ggn(y, batches[0], alone)[place]
                expected = _curvature(loss, y, batches[0], alone)[place]
                record.at_most(f"the relative gap in output {place}", gap(part, expected), _limit(y))


@check("loss adapter", prefix="loss")
def ggn_is_symmetric_and_positive(subject: Subject, record: Record) -> None:
    """<ggn(d), e> = <d, ggn(e)>, <d, ggn(d)> >= 0, and several directions on a leading axis are one by one."""
    loss, _, batches, y = with_outputs(subject)
    if not isinstance(loss, GivesGGN):
        msg = "it gives no closed form"
        raise SkippedError(msg)
    several = _normal(y, 3, rows=2)
    d, e = (tuple(part[i] for part in several) for i in range(2))
    Gd, Ge = (_flat(loss.ggn(y, batches[0], t)).to(torch.float64) for t in (d, e))
    scale = float(Gd.norm() * _flat(e).norm())
    record.at_most("the asymmetry, relative", abs(float(Gd @ _flat(e) - _flat(d) @ Ge)) / (scale or 1.0), _limit(y))
    least = -float(Gd @ _flat(d)) / (float(Gd.norm() * _flat(d).norm()) or 1.0)
    record.at_most("minus <d, ggn(d)>, relative", least, _limit(y))
    together = loss.ggn(y, batches[0], several)
    one = torch.stack([_flat(tuple(part[i] for part in together)) for i in range(2)])
    record.at_most("the relative gap of two directions at once", gap(one, torch.stack([Gd, Ge])), _limit(y))


@check("loss adapter", prefix="loss")
def units(subject: Subject, record: Record) -> None:
    """With the tag "units" it tells its units' losses, (U,), which sum to loss_sum with the same gradient."""
    loss, _, batches, y = with_outputs(subject)
    told = isinstance(loss, ComputesUnitLosses)
    record.equal('the tag "units"', subject.tagged("units"), told)
    if not told:
        msg = "it does not tell its units apart"
        raise SkippedError(msg)
    for batch_y, batch in ((y, batches[0]),):
        leaves = tuple(part.clone().requires_grad_() for part in batch_y)
        losses = loss.unit_losses(leaves, batch)
        record.equal("the axes of unit_losses", losses.ndim, 1)
        total = loss.loss_sum(leaves, batch)
        record.at_most("the relative gap of the sum", _scalar_gap(losses.sum().detach(), total.detach()), _limit(y))
        slopes = (
            torch.autograd.grad(t, leaves, retain_graph=True, materialize_grads=True) for t in (losses.sum(), total)
        )
        found, expected = (_flat(tuple(part.detach() for part in parts)) for parts in slopes)
        record.at_most("the relative gap of the gradient", gap(found, expected), _limit(y))


class _Uniforms:
    """Uniforms of one draw: fresh numbers for the units it is asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, units: int, each: int = 1) -> Tensor:
        drawn = torch.rand(units, each, generator=self.generator, dtype=torch.float64)
        return drawn.clamp(1e-12, 1 - 1e-12)


@check("loss adapter", prefix="loss")
def sampling(subject: Subject, record: Record) -> None:
    """The sampled losses' gradients r_u have E sum_u <r_u, d>^2 = <d, H d>, H being the loss's own curvature in y."""
    loss, _, batches, y = with_outputs(subject)
    if not isinstance(loss, SamplesTargets):
        msg = "it draws no targets"
        raise SkippedError(msg)
    batch, d = batches[0], _normal(y, 4)
    form = loss.ggn(y, batch, d) if isinstance(loss, GivesGGN) else _curvature(loss, y, batch, d)
    truth = float(_flat(form) @ _flat(d))
    # J d by differentiating J^T w in w: each draw's sum of squares is |J d|^2, J the units' Jacobian in y
    values = []
    for draw in range(400):
        targets = loss.sample_targets(y, batch, _Uniforms(draw))
        leaves = tuple(part.clone().requires_grad_() for part in y)
        losses = loss.sampled_losses(leaves, batch, targets)
        w = torch.ones_like(losses, requires_grad=True)
        slopes = torch.autograd.grad(losses, leaves, w, create_graph=True, materialize_grads=True)
        inner = torch.stack([(s * t).sum() for s, t in zip(slopes, d, strict=True)]).sum()
        (along,) = torch.autograd.grad(inner, w, materialize_grads=True)
        values.append(float(along.double().square().sum()))
    drawn = torch.tensor(values, dtype=torch.float64)
    error = float(drawn.std()) / len(drawn) ** 0.5
    record.note("<d, H d>", truth)
    record.at_most("the standard error of 400 draws", error, 0.1 * truth)  # else the next line says nothing
    record.at_most("the mean's distance", abs(float(drawn.mean()) - truth), 4.5 * error + _limit(y) * truth)


def _products(loss: Any, model: nn.Module, batch: Any, along: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Loss sum, units, gradient and GGN times a direction in the parameters, by textbook differentiation."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    twice = loss.second_order(model) if isinstance(loss, PreparesSecondOrder) else nullcontext()
    with twice, sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        y = loss.outputs(model, batch)
        live = [place for place, part in enumerate(y) if part.requires_grad]  # a head's bias may be a buffer
        ends = [y[place] for place in live]
        u = [torch.zeros_like(part).requires_grad_() for part in ends]
        pulled = torch.autograd.grad(ends, leaves, u, create_graph=True, materialize_grads=True)
        # J v by differentiating J^T u, which is linear in u
        moved = torch.autograd.grad(pulled, u, along, retain_graph=True, materialize_grads=True)
        dy = [torch.zeros_like(part) for part in y]
        for place, direction in zip(live, moved, strict=True):
            dy[place] = direction
        told, along_y = tuple(part.detach() for part in y), tuple(dy)
        closed = isinstance(loss, GivesGGN)
        curved = loss.ggn(told, batch, along_y) if closed else _curvature(loss, told, batch, along_y)
        weights = [curved[place] for place in live]
        product = torch.autograd.grad(ends, leaves, weights, retain_graph=True, materialize_grads=True)
        total = loss.loss_sum(y, batch)
        slope = torch.autograd.grad(total, leaves, materialize_grads=True)
    sums = {"loss": total.detach(), "units": torch.as_tensor(float(loss.num_units(batch)))}
    return sums | {"gradient": _flat(slope), "GGN product": _flat(product)}


@check("loss adapter", prefix="loss")
def binding(subject: Subject, record: Record) -> None:
    """Where it binds to its model, what it gives is the same loss: its sum, units, gradient and GGN, batch by batch."""
    unbound = made_loss(subject)
    if not isinstance(unbound, BindsToModel):
        msg = "it does not bind to its model"
        raise SkippedError(msg)
    model, batches = model_and_batches(subject)
    seen: Any = Problem(model, batches, unbound, preflight="off").loss
    record.equal("its class", type(seen), type(unbound))
    limit = _limit(outputs(unbound, model, batches[0]))
    along = _normal(tuple(p for p in model.parameters() if p.requires_grad), 6)
    for batch in batches:
        expected, found = (_products(loss, model, batch, along) for loss in (unbound, seen))
        for what, value in expected.items():
            record.at_most(f"the relative gap of the {what}", gap(found[what], value), limit)


@check("loss adapter", prefix="loss")
def leaves_all_as_it_was(subject: Subject, record: Record) -> None:
    """`bind`, `second_order`, outputs, sums and units leave model, mode, data and random state as they were."""
    model, batches = model_and_batches(subject)
    before = snapshot(model, batches)
    loss = bound(subject, made_loss(subject), model, batches)
    y = outputs(loss, model, batches[0])
    loss.loss_sum(y, batches[0]).detach()
    loss.num_units(batches[0])
    if isinstance(loss, PreparesSecondOrder):
        try:
            with loss.second_order(model):
                raise _BoomError
        except _BoomError:
            pass
    moved = differences(before, snapshot(model, batches))
    record.true(not moved, f"not as it was: {', '.join(moved)}")


class _BoomError(Exception):
    """Raised inside a context manager, to see what it leaves behind."""


@check("loss adapter", prefix="loss")
def second_derivatives(subject: Subject, record: Record) -> None:
    """The Hessian's product with this loss passes the preflight checks: nothing detached, no derivative missing."""
    loss = made_loss(subject)
    model, batches = model_and_batches(subject)
    op = HessianOperator(Problem(model, batches, loss, preflight="error"))
    v, w = directions(op.space, 2)
    found = op.apply(torch.stack([v, w]))
    record.true(bool(found.isfinite().all()), "the product holds inf or NaN")
    left, right = float(op.space.dots(found[:1], w[None])), float(op.space.dots(v[None], found[1:]))
    size = float(op.space.norms(found[:1]) * op.space.norms(w[None]))
    record.at_most("the asymmetry, relative", abs(left - right) / (size or 1.0), rounding(op.dtype))


@check("loss adapter", prefix="loss", concerns=lambda spec: bool(spec.matches))
def matches(subject: Subject, record: Record) -> None:
    """`matches` fits the case's model by the class names along its MRO, and not every module."""
    plain = [c.__name__ for c in nn.Linear.__mro__]
    for pattern in subject.spec.matches:
        hit = [name for name in plain if fnmatch.fnmatchcase(name, pattern)]
        record.true(not hit, f"the pattern {pattern!r} fits {hit[:1]}, and so every model")
    if subject.case.model is None:
        msg = f"no model was handed in: Case(component={subject.name!r}, model=...)"
        raise SkippedError(msg)
    names = [c.__name__ for c in type(subject.case.model()).__mro__]
    fits = any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in subject.spec.matches)
    record.true(fits, f"none of {', '.join(subject.spec.matches)} fits {names[0]}")


@check("loss adapter", prefix="loss")
def kernels(subject: Subject, record: Record) -> None:
    """Where it uses kernels, `with_kernels` gives an equal loss of the same class, and the old one is as it was."""
    loss, _, batches, y = with_outputs(subject)
    if not isinstance(loss, UsesKernels):
        msg = "it uses no kernels"
        raise SkippedError(msg)
    other = loss.with_kernels(Kernels())
    record.equal("the class", type(other), type(loss))
    found, expected = (float(one.loss_sum(y, batches[0])) for one in (other, loss))
    record.at_most("the relative gap of the loss", _scalar_gap(found, expected), _limit(y))


@check("loss adapter", prefix="loss")
def batch_is_read_only(subject: Subject, record: Record) -> None:
    """Every method reads the same batch twice and says the same: nothing is kept between calls, nothing drawn."""
    loss, model, batches, y = with_outputs(subject)
    record.more_than("tensors in the batch", len(list(tensors(batches[0]))), 0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # what draws from a global generator gives something else
        again = tuple(part.detach() for part in loss.outputs(model, batches[0]))
        record.at_most("the relative gap of the outputs", gap(_flat(again), _flat(y)), _limit(y))
        first, second = (float(loss.loss_sum(y, batches[0])) for _ in range(2))
    record.equal("the second loss_sum", second, first)
    record.equal("the second num_units", float(loss.num_units(batches[0])), float(loss.num_units(batches[0])))


CHECKS = (
    outputs_are_graph_tensors,
    sums_add_up,
    reference,
    ignored_content,
    ggn_is_the_curvature,
    ggn_is_symmetric_and_positive,
    units,
    sampling,
    binding,
    leaves_all_as_it_was,
    second_derivatives,
    matches,
    kernels,
    batch_is_read_only,
)
