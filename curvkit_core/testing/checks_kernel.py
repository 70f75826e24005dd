"""The laws of kernels: the operation's numbers within the stated tolerance, for every dtype named; plain refusals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.kernel_truths import SWEEPS, HeadCase, ce_hvp_truth, head_case, sweep_of, sweep_truth
from curvkit_core.testing.subject import Subject

__all__ = ["CHECKS"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# rows by words: one of each, odd ones, one above and one below a usual block of 128, more rows than words
_SHAPES = ((1, 1), (1, 5), (4, 1), (3, 7), (33, 129), (70, 127))


def _not_a_head(spec: Any) -> bool:
    """Whether it could be given logits; a linear head's sweeps have shapes and layouts of their own."""
    return bool(spec.op != "linear_ce")


def _device(subject: Subject) -> str:
    """A device that the spec names and that is here."""
    if subject.case.device is not None:
        return subject.case.device
    named = subject.spec.devices
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    here += ["mps"] if torch.backends.mps.is_available() else []
    found = [device for device in here if device in named]
    if found or "*" in named:
        return found[0] if found else "cpu"
    msg = f"it takes {' or '.join(named)}, and there is none here"
    raise SkippedError(msg)


def _dtypes(subject: Subject) -> list[torch.dtype]:
    named = subject.spec.dtypes
    return [dtype for name, dtype in _DTYPES.items() if "*" in named or name in named]


def _for(subject: Subject, *ops: str) -> Any:
    """The kernel, if it is of one of these operations."""
    if subject.spec.op not in ("ce_hvp", "linear_ce"):
        msg = f"core has no operation {subject.spec.op!r}: it cannot be told what is right"
        raise SkippedError(msg)
    if subject.spec.op not in ops:
        msg = f"it is of {subject.spec.op}"
        raise SkippedError(msg)
    return subject.build()


def _limit(subject: Subject, dtype: torch.dtype, terms: int) -> float:
    """Allowed error over the largest entry: the output's rounding, and the sums' or what the spec states."""
    accumulated = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    stated = float(subject.spec.tolerance or 0.0)
    return float(4 * torch.finfo(dtype).eps + max(stated, 32 * terms**0.5 * accumulated))


def _error(found: Tensor, truth: Tensor) -> float:
    """Largest error over the truth's largest entry; absolute where the truth is below 1e-2; inf where not finite."""
    if found.shape != truth.shape or not bool(found.isfinite().all()):
        return float("inf")
    away = (found.to(torch.float64).cpu() - truth.to(torch.float64).cpu()).abs().max()
    return float(away) / max(float(truth.abs().max()), 1e-2)


def _ce_case(rows: int, words: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + words)
    z, u = (torch.randn(rows, words, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    s = torch.rand(rows, generator=generator, dtype=torch.float64).to(torch.float32) + 0.1
    return z.to(device), s.to(device), u.to(device)


@check("kernel")
def agrees(subject: Subject, record: Record) -> None:
    """For each dtype it names and shapes aligned or not, its numbers are autograd's in float64 within its tolerance."""
    kernel, device = _for(subject, "ce_hvp", "linear_ce"), _device(subject)
    for dtype in _dtypes(subject):
        name = str(dtype).removeprefix("torch.")
        if subject.spec.op == "ce_hvp":
            for rows, words in _SHAPES:
                case = _ce_case(rows, words, dtype, device)
                found = kernel(*case)
                record.equal(f"the dtype for {name}", found.dtype, dtype)
                error, limit = _error(found, ce_hvp_truth(*case)), _limit(subject, dtype, words)
                record.at_most(f"{name}: error over its limit", error / limit, 1.0)
                # a constant in u is in the Hessian's kernel, and swamps sums that are too narrow; 64 times the rounding
                # of probabilities that sum to 1 is allowed
                z, s, u = case
                limit += 1024 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
                error = _error(kernel(z, s, u + 64), ce_hvp_truth(z, s, u + 64))
                record.at_most(f"{name}, u + 64: error over its limit", error / limit, 1.0)
            continue
        for rows, words, bias in ((1, 1, True), (7, 9, True), (33, 130, False)):
            head = head_case(dtype, device, rows=rows, words=words, bias=bias)
            for sweep in SWEEPS:
                found_parts, parts = sweep_of(kernel, sweep, head), sweep_truth(sweep, head)
                record.equal(f"the results of {sweep}", len(found_parts), len(parts))
                limit = _limit(subject, dtype, 16 * words * rows)
                for part, truth in zip(found_parts, parts, strict=True):
                    record.at_most(f"{name}, {sweep}: error over its limit", _error(part, truth) / limit, 1.0)


@check("kernel")
def ignored_rows(subject: Subject, record: Record) -> None:
    """Rows that do not count may hold inf and NaN: nothing changes by a bit, and their own product is zero."""
    kernel, device = _for(subject, "ce_hvp", "linear_ce"), _device(subject)
    dtype = _dtypes(subject)[0]
    if subject.spec.op == "ce_hvp":
        z, s, u = _ce_case(5, 7, dtype, device)
        s[2] = 0.0
        clean = kernel(z, s, u).clone()
        z[2], u[2] = float("nan"), float("inf")
        found = kernel(z, s, u)
        record.true(torch.equal(found, clean), "inf and NaN in a row of weight 0 change the product")
        record.true(not bool(clean[2].any()), "the product of a row of weight 0 is not zero")
        return
    head = head_case(dtype, device)
    for sweep in SWEEPS:
        clean_parts = tuple(part.clone() for part in sweep_of(kernel, sweep, head))
        hidden = head.y[0]
        assert hidden is not None
        kept = hidden[1].clone()
        hidden[1] = float("nan")
        poisoned = sweep_of(kernel, sweep, head)
        hidden[1] = kept
        same = all(torch.equal(a, b) for a, b in zip(poisoned, clean_parts, strict=True))
        record.true(same, f"NaN in an ignored row's hidden state changes {sweep}")


@check("kernel", concerns=_not_a_head)
def masked_words(subject: Subject, record: Record) -> None:
    """Words of logit -inf have probability 0, and the others are as without them."""
    kernel, device = _for(subject, "ce_hvp"), _device(subject)
    for dtype in _dtypes(subject):
        z, s, u = _ce_case(4, 9, dtype, device)
        keep = [1, 2, 4, 5, 6]
        masked = torch.full_like(z, -float("inf"))
        masked[:, keep] = z[:, keep]
        found = kernel(masked, s, u)
        rest = [i for i in range(9) if i not in keep]
        record.true(not bool(found[:, rest].any()), "the product of a masked word is not zero")
        truth = ce_hvp_truth(z[:, keep], s, u[:, keep])
        error = _error(found[:, keep], truth) / _limit(subject, dtype, 9)
        record.at_most("error over its limit", error, 1.0)


@check("kernel", concerns=_not_a_head)
def several_directions(subject: Subject, record: Record) -> None:
    """Directions on a leading axis are the products one by one."""
    kernel, device = _for(subject, "ce_hvp"), _device(subject)
    for dtype in _dtypes(subject):
        z, s, u = _ce_case(5, 6, dtype, device)
        several = torch.stack([u, -2 * u, u.flip(0)])
        one = torch.stack([kernel(z, s, d.contiguous()) for d in several])
        together = kernel(z, s, several)
        record.equal("the shape", tuple(together.shape), tuple(several.shape))
        record.at_most("error over its limit", _error(together, one.to(torch.float64)) / _limit(subject, dtype, 6), 1.0)


@check("kernel", concerns=_not_a_head)
def any_layout(subject: Subject, record: Record) -> None:
    """Strided and transposed arguments give the product of their contiguous copies, or are refused in words."""
    kernel, device = _for(subject, "ce_hvp"), _device(subject)
    dtype = _dtypes(subject)[0]
    z, s, u = _ce_case(6, 8, dtype, device)
    truth = ce_hvp_truth(z, s, u)
    wide = torch.zeros(6, 16, dtype=dtype, device=device)
    wide[:, ::2] = z
    for name, zz, uu in (("strided", wide[:, ::2], u), ("transposed", z.mT.contiguous().mT, u.mT.contiguous().mT)):
        try:
            found = kernel(zz, s, uu)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            record.true(str(error).strip(), f"{name} arguments raise {type(error).__name__} without a word")
            continue
        record.at_most(f"{name}: error over its limit", _error(found, truth) / _limit(subject, dtype, 8), 1.0)


@check("kernel")
def leaves_arguments(subject: Subject, record: Record) -> None:
    """Its arguments are only read, and its result shares no memory with them."""
    kernel, device = _for(subject, "ce_hvp", "linear_ce"), _device(subject)
    dtype = _dtypes(subject)[0]
    if subject.spec.op == "ce_hvp":
        arguments: list[Tensor] = list(_ce_case(5, 7, dtype, device))
        copies = [t.clone() for t in arguments]
        results: tuple[Tensor, ...] = (kernel(*arguments),)
    else:
        head = head_case(dtype, device)
        arguments = [*_tensors(head)]
        copies = [t.clone() for t in arguments]
        results = tuple(part for sweep in SWEEPS for part in sweep_of(kernel, sweep, head))
    for number, (now, before) in enumerate(zip(arguments, copies, strict=True)):
        record.true(torch.equal(now, before), f"argument {number} was written to")
    places = {t.untyped_storage().data_ptr() for t in arguments}
    shared = any(part.untyped_storage().data_ptr() in places for part in results)
    record.true(not shared, "a result shares memory with an argument")


def _tensors(head: HeadCase) -> list[Tensor]:
    return [t for t in (*head.y, head.targets, head.weights, *head.along) if t is not None]


@check("kernel", concerns=lambda spec: "repeatable" in spec.tags)
def repeatable(subject: Subject, record: Record) -> None:
    """With the tag "repeatable" the same call gives the same bits."""
    kernel, device = _for(subject, "ce_hvp", "linear_ce"), _device(subject)
    for dtype in _dtypes(subject):
        if subject.spec.op == "ce_hvp":
            case = _ce_case(70, 127, dtype, device)
            pairs = [(kernel(*case).clone(), kernel(*case))]
        else:
            head = head_case(dtype, device, rows=33, words=70)
            pairs = [
                pair
                for sweep in SWEEPS
                for pair in zip(
                    (p.clone() for p in sweep_of(kernel, sweep, head)), sweep_of(kernel, sweep, head), strict=True
                )
            ]
        record.true(all(torch.equal(a, b) for a, b in pairs), f"a second call gives other bits in {dtype}")


@check("kernel", concerns=_not_a_head)
def outside_its_claims(subject: Subject, record: Record) -> None:
    """A dtype that it does not name is refused in words, or computed right; shapes that do not fit are refused."""
    kernel, device = _for(subject, "ce_hvp"), _device(subject)
    named = _dtypes(subject)
    for dtype in (d for d in _DTYPES.values() if d not in named):
        case = _ce_case(3, 7, dtype, device)
        try:
            found = kernel(*case)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            record.true(str(error).strip(), f"{dtype} raises {type(error).__name__} without a word")
            continue
        limit = 4 * torch.finfo(dtype).eps + 32 * 7**0.5 * torch.finfo(torch.float32).eps
        record.at_most(
            f"error over its limit in {dtype}, which it does not name", _error(found, ce_hvp_truth(*case)) / limit, 1
        )
    z, s, u = _ce_case(5, 7, named[0], device)
    for name, bad in (("u of other words", (z, s, u[:, :5])), ("weight of other rows", (z, s[:3], u))):
        try:
            kernel(*bad)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must say something
            record.true(str(error).strip(), f"{name}: {type(error).__name__} without a word")
        else:
            record.true(False, f"{name} is computed, not refused")


CHECKS = (
    agrees,
    ignored_rows,
    masked_words,
    several_directions,
    any_layout,
    leaves_arguments,
    repeatable,
    outside_its_claims,
)
