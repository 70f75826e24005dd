"""Cross-entropy of a linear head against the same on materialised logits: value, two derivatives in every mode, GGN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.linear_ce_cases import F64, OPTION_CASES, HeadCase, HeadMatmuls, make_case, with_options
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from curvkit_core.kernels import Kernels, chunked_linear_ce, linear_ce, linear_ce_ggn

TOL = 1e-12  # sums of at most 100 terms of order 1 to 10 in float64, times 50

each_option = pytest.mark.parametrize("make", OPTION_CASES.values(), ids=OPTION_CASES)


def gap(found: Any, expected: Any) -> float:
    """The largest difference over all tensors, relative to the largest entry of what is expected."""
    size = max(float(e.abs().max()) for e in expected)
    return max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True)) / size


def agrees(found: Any, expected: Any, tol: float = TOL) -> bool:
    """Equal to rounding, where one that is wrong by 1e-3 is not."""
    assert gap([1.001 * t for t in found], expected) > tol
    return gap(found, expected) <= tol


def whole_gradient(fn: Callable[..., Tensor], case: HeadCase) -> Callable[..., Any]:
    return grad(fn, argnums=tuple(range(len(case.y))))


def plain_product(case: HeadCase, d: tuple[Tensor, ...]) -> Any:
    """The Hessian product of the materialised loss."""
    return jvp(whole_gradient(case.plain_loss, case), case.y, d)[1]


def plain_ggn(case: HeadCase, d: tuple[Tensor, ...]) -> Any:
    """K^T H K d, with K and H by torch.func on the logits."""
    z, u = jvp(case.logits, case.y, d)
    Hu = jvp(grad(case.loss_of_logits), (z,), (u,))[1]
    return vjp(case.logits, *case.y)[1](Hu)


@each_option
def test_value_and_derivatives_are_the_materialised_ones(make: Callable[[], HeadCase]) -> None:
    """Loss, rows' losses, gradient, slope, Hessian product and Gauss-Newton product, all options crossed."""
    case = make()
    y, d = case.y, case.directions(1)
    assert agrees([case.loss(*y)], [case.plain_loss(*y)])
    rows = case.loss_of_logits(case.logits(*y), "none")
    assert agrees([case.loss(*y, reduction="none").reshape(-1)], [rows])
    gradient = whole_gradient(case.loss, case)
    assert agrees(gradient(*y), whole_gradient(case.plain_loss, case)(*y))
    assert agrees([jvp(case.loss, y, d)[1]], [jvp(case.plain_loss, y, d)[1]])
    assert agrees(jvp(gradient, y, d)[1], plain_product(case, d))
    assert agrees(case.ggn(*d), plain_ggn(case, d))


@each_option
def test_derivatives_pass_torchs_own_checks(make: Callable[[], HeadCase]) -> None:
    """First and second, in reverse and in forward mode, against differences: float64."""
    case = make()
    y = [t.clone().requires_grad_() for t in case.y]
    assert gradcheck(case.loss, y, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(case.loss, y, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", list(OPTION_CASES)[5::13])
def test_every_entry_of_the_derivatives_passes(name: str) -> None:
    """The same entry by entry, for a few of the options."""
    case = OPTION_CASES[name]()
    y = [t.clone().requires_grad_() for t in case.y]
    assert gradcheck(case.loss, y, check_forward_ad=True)
    assert gradgradcheck(case.loss, y, check_fwd_over_rev=True)


def test_torchs_checks_see_a_detached_part() -> None:
    """Negative control: the loss with its weight's second derivative cut off."""
    case = make_case()
    y = [t.clone().requires_grad_() for t in case.y]
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradgradcheck(lambda h, W, b: case.loss(h, W.detach(), b) + case.loss(h.detach(), W, b), y, fast_mode=True)


SOME = make_case((2, 3), label_smoothing=0.2, softcap=2.0, logit_scale=0.7, weighted=True, ignored=(0, 4))
SECOND: dict[str, Callable[[HeadCase, tuple[Tensor, ...]], Any]] = {
    "forward over reverse": lambda c, d: jvp(whole_gradient(c.loss, c), c.y, d)[1],
    "reverse over reverse": lambda c, d: vjp(whole_gradient(c.loss, c), *c.y)[1](d),
    "reverse over forward": lambda c, d: whole_gradient(lambda *y: jvp(c.loss, y, d)[1], c)(*c.y),
}


@pytest.mark.parametrize("mode", list(SECOND))
def test_second_derivatives_agree_in_every_mode_and_under_vmap(mode: str) -> None:
    """Hessian products one by one, and batched over directions."""
    D = SOME.directions(2, rows=3)
    expected = [plain_product(SOME, tuple(t[k] for t in D)) for k in range(3)]
    found = [SECOND[mode](SOME, tuple(t[k] for t in D)) for k in range(3)]
    for f, e in zip(found, expected, strict=True):
        assert agrees(f, e)
    batched = vmap(lambda *d: SECOND[mode](SOME, d))(*D)
    assert agrees(batched, [torch.stack(column) for column in zip(*expected, strict=True)])


@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
def test_dense_hessians_agree_in_every_mode(outer: Callable, inner: Callable) -> None:
    """Forward over forward among them."""
    case = make_case((2,), classes=3, width=2, label_smoothing=0.2, softcap=2.0, weighted=True, ignored=())
    places = (0, 1, 2)
    found = outer(inner(case.loss, argnums=places), argnums=places)(*case.y)
    expected = hessian(case.plain_loss, argnums=places)(*case.y)
    assert agrees([t for row in found for t in row], [t for row in expected for t in row])


def test_rows_have_jacobians() -> None:
    """d loss_i / dy for all rows at once, as the empirical Fisher has it."""
    rows = lambda *y: SOME.loss(*y, reduction="none").reshape(-1)  # noqa: E731
    plain = lambda *y: SOME.loss_of_logits(SOME.logits(*y), "none")  # noqa: E731
    expected = jacrev(plain, (0, 1, 2))(*SOME.y)
    assert agrees(jacrev(rows, (0, 1, 2))(*SOME.y), expected)
    assert agrees(jacfwd(rows, (0, 1, 2))(*SOME.y), expected)


def test_vmap_over_examples() -> None:
    """Gradients of several batches of hidden states at once."""
    hidden = torch.randn(4, *SOME.hidden.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    one = lambda loss: vmap(lambda h: whole_gradient(loss, SOME)(h, *SOME.y[1:]))(hidden)  # noqa: E731
    assert agrees(one(SOME.loss), one(SOME.plain_loss))


def test_the_product_is_its_own_derivative_in_the_directions() -> None:
    """With the inputs still requiring gradients; and in the rows' weights it is <d, hess e>."""
    y = [t.clone().requires_grad_() for t in SOME.y]
    d = [t.requires_grad_() for t in SOME.directions(1)]
    c = torch.tensor(1.0, dtype=F64, requires_grad=True)
    slopes = torch.autograd.grad(c * SOME.loss(*y), y, create_graph=True)
    product = torch.autograd.grad(slopes, y, d, create_graph=True)
    e = SOME.directions(2)
    He = plain_product(SOME, e)
    assert agrees(torch.autograd.grad(product, d, e, retain_graph=True), He)
    expected = sum((a * b).sum() for a, b in zip(d, He, strict=True))
    assert agrees([torch.autograd.grad(product, c, e)[0]], [expected.detach()])


def test_a_third_derivative_is_refused_in_every_mode() -> None:
    """By name, not by a wrong number."""
    d = SOME.directions(1)
    y = [t.clone().requires_grad_() for t in SOME.y]

    def by_backward() -> object:
        slopes = torch.autograd.grad(SOME.loss(*y), y, create_graph=True)
        product = torch.autograd.grad(slopes, y, d, create_graph=True)
        return torch.autograd.grad(sum(t.sum() for t in product), y)

    forward = lambda *y: jvp(whole_gradient(SOME.loss, SOME), y, d)[1]  # noqa: E731
    twice = lambda *y: jvp(lambda *y: jvp(SOME.loss, y, d)[1], y, d)[1]  # noqa: E731
    for fn in (
        by_backward,
        lambda: grad(lambda *y: forward(*y)[0].sum())(*SOME.y),
        lambda: jvp(forward, SOME.y, d),
        lambda: jvp(twice, SOME.y, d),
        lambda: grad(twice)(*SOME.y),
    ):
        with pytest.raises(NotImplementedError, match="first and second derivatives only.*functional.cross_entropy"):
            fn()


# Cost ---------------------------------------------------------------------------------------------------------------

WIDE = make_case((12,), classes=31, width=7, ignored=(2, 3), bias=True, chunk_bytes=4 * 8 * 31)


def matmuls(fn: Callable[[], Any]) -> tuple[float, Any]:
    """How many of the head's size `fn` takes, by counting multiplications, and its result."""
    with HeadMatmuls(WIDE) as counter:
        found = fn()
    return counter.number, found


@pytest.mark.parametrize(
    ("frozen", "gradient", "product"),
    # a; p W and p^T h: 3. a; dh W^T and h dW^T; y W, rho dW; y^T h, rho^T dh: 7. A frozen input's own are not there.
    [((), 3, 7), ((1,), 2, 3), ((0,), 2, 3), ((2,), 3, 7), ((1, 2), 2, 3), ((0, 2), 2, 3), ((0, 1), 1, 1)],
)
def test_matmuls_are_counted_and_a_frozen_input_costs_none(
    frozen: tuple[int, ...], gradient: float, product: float
) -> None:
    """The numbers of the docstrings; ignored rows cost nothing either."""
    y = [t.clone().requires_grad_(i not in frozen) for i, t in enumerate(WIDE.y)]
    live = [t for t in y if t.requires_grad]
    d = [t for i, t in enumerate(WIDE.directions(1)) if i not in frozen]
    number, loss = matmuls(lambda: WIDE.loss(*y))
    assert number == 1
    number, slopes = matmuls(lambda: torch.autograd.grad(loss, live, create_graph=True))
    assert number == gradient
    number, found = matmuls(lambda: torch.autograd.grad(slopes, live, d, retain_graph=True))
    assert number == product
    full = tuple(torch.zeros_like(t) if i in frozen else t for i, t in enumerate(WIDE.directions(1)))
    assert agrees(found, [t for i, t in enumerate(plain_product(WIDE, full)) if i not in frozen])


def test_the_gauss_newton_product_takes_five() -> None:
    """1 + 4 k; without a direction or a result in the weight 3."""
    assert matmuls(lambda: WIDE.ggn(*WIDE.directions(1)))[0] == 5
    assert matmuls(lambda: WIDE.ggn(*WIDE.directions(1, rows=3)))[0] == 13
    d = WIDE.directions(1)
    call = lambda: linear_ce_ggn(  # noqa: E731
        *WIDE.y, WIDE.targets, d[0], None, None, wanted=(True, False, False), **WIDE.options
    )
    number, found = matmuls(call)
    assert number == 3
    assert found[1] is None
    assert agrees([found[0]], [plain_ggn(WIDE, (d[0], torch.zeros_like(d[1]), torch.zeros_like(d[2])))[0]])


def test_the_counter_sees_a_materialising_version() -> None:
    """Negative control: the plain loss's Hessian product with the weight frozen takes its matmuls on all rows."""
    assert matmuls(lambda: WIDE.plain_loss(*WIDE.y))[0] > 1


@pytest.mark.parametrize("k", [1, 3])
def test_directions_are_products_one_by_one(k: int) -> None:
    """Bit for bit: how many there are changes neither the chunks nor the order of a sum."""
    D = SOME.directions(3, rows=k)
    together = SOME.ggn(*D)
    for i in range(k):
        for all_, one in zip(together, SOME.ggn(*(t[i] for t in D)), strict=True):
            assert torch.equal(all_[i], one)


@pytest.mark.parametrize("chunk_bytes", [1, 200, 1 << 30])
def test_any_chunk_gives_the_same(chunk_bytes: int) -> None:
    """One row at a time, a few, all."""
    case, d = with_options(SOME, chunk_bytes=chunk_bytes), SOME.directions(1)
    assert agrees(jvp(whole_gradient(case.loss, case), case.y, d)[1], plain_product(SOME, d))
    assert agrees(case.ggn(*d), plain_ggn(SOME, d))


# Hard inputs --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_hard_inputs_give_numbers_and_the_right_ones(data: st.DataObject) -> None:
    """Logits to +-1e4, constant rows, any ignored rows, a masked vocabulary, one class, one row, none."""
    lead = data.draw(st.sampled_from([(0,), (1,), (4,), (2, 3), (2, 1, 2)]), label="lead")
    classes, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    case = make_case(lead, classes=classes, width=width, seed=data.draw(st.integers(0, 99)), ignored=())
    rows = case.targets.numel()
    flags = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows), label="ignored")
    size = data.draw(st.sampled_from([1.0, 1e2, 1e4]), label="size")
    hidden, weight, bias = case.hidden, size * case.weight, case.bias
    if data.draw(st.booleans(), label="constant rows"):
        weight, bias = torch.ones_like(weight) * size, torch.zeros_like(bias)
    masked = data.draw(st.sets(st.integers(1, classes - 1)) if classes > 1 else st.just(set()), label="masked")
    bias[list(masked)] = -torch.inf
    targets = torch.where(torch.isin(case.targets, torch.tensor(sorted(masked))), 0, case.targets)
    targets = targets.masked_fill(torch.tensor(flags, dtype=torch.bool).view(lead), -100)
    case = evolve(case, hidden=hidden, weight=weight, bias=bias, targets=targets)
    # the twin knows nothing of masked words: they are not in its vocabulary
    left = [c for c in range(classes) if c not in masked]
    place = torch.full((classes,), -100)
    place[left] = torch.arange(len(left))
    renamed = torch.where(targets == -100, -100, place[targets.clamp_min(0)])
    twin = evolve(case, weight=weight[left], bias=bias[left], targets=renamed)
    d = case.directions(1)
    short = (d[0], d[1][left], d[2][left])
    for found, expected, power in (
        ([case.loss(*case.y)], [twin.plain_loss(*twin.y)], 1),
        (whole_gradient(case.loss, case)(*case.y), whole_gradient(twin.plain_loss, twin)(*twin.y), 1),
        (jvp(whole_gradient(case.loss, case), case.y, d)[1], plain_product(twin, short), 2),
        (case.ggn(*d), plain_ggn(twin, short), 2),
    ):
        assert all(torch.isfinite(t).all() for t in found)
        kept = [t[left] if t.shape[:1] == (classes,) and t.ndim < 3 and i else t for i, t in enumerate(found)]
        # logits of 1e4 carry 1e4 eps, which the softmax passes on; weights of that size multiply each derivative
        tol = 200 * torch.finfo(F64).eps * size * (size * 10) ** power
        for f, e in zip(kept, expected, strict=True):
            assert f.shape == e.shape
            assert not f.numel() or (f - e).abs().max() <= tol
        for i, t in enumerate(found):
            assert i == 0 or not t[sorted(masked)].any()  # nothing moves with a masked word


def test_ignored_rows_may_hold_anything() -> None:
    """inf and NaN in their hidden states and directions reach nothing; their own derivatives are 0."""
    case, d = make_case(ignored=(1, 3)), make_case().directions(1)
    dirty = evolve(case, hidden=case.hidden.clone())
    dirty.hidden[1], dirty.hidden[3] = torch.nan, torch.inf
    poisoned = (d[0].clone(), *d[1:])
    poisoned[0][1], poisoned[0][3] = torch.inf, torch.nan
    for fn in (
        lambda c, d: [c.loss(*c.y)],
        lambda c, d: whole_gradient(c.loss, c)(*c.y),
        lambda c, d: jvp(whole_gradient(c.loss, c), c.y, d)[1],
        lambda c, d: c.ggn(*d),
    ):
        for clean, found in zip(fn(case, d), fn(dirty, poisoned), strict=True):
            assert torch.equal(clean, found)
            if clean.shape == case.hidden.shape:
                assert not found[[1, 3]].any()


def test_smoothing_over_a_masked_vocabulary_is_torchs_infinity_with_finite_derivatives() -> None:
    """A class that has mass and cannot be is infinitely unlikely; one of weight 0 has no mass."""
    case = make_case(label_smoothing=0.1)
    case.bias[0] = -torch.inf
    case = evolve(case, targets=case.targets.clamp_min(1))
    assert case.plain_loss(*case.y) == case.loss(*case.y) == torch.inf
    assert agrees(whole_gradient(case.loss, case)(*case.y), whole_gradient(case.plain_loss, case)(*case.y))
    assert torch.isfinite(with_options(case, class_weights=torch.tensor([0.0, 1, 1, 1], dtype=F64)).loss(*case.y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Against float64 at the rounded inputs: the results' own rounding, whatever the number of rows."""
    case = make_case((400,), classes=11, width=5, dtype=dtype, ignored=(7,), chunk_bytes=11 * 4 * 30)
    exact = evolve(case, hidden=case.hidden.to(F64), weight=case.weight.to(F64), bias=case.bias.to(F64))
    d = case.directions(1)
    wide = tuple(t.to(F64) for t in d)
    loss = case.loss(*case.y)
    assert loss.dtype == torch.float32
    assert agrees([loss.double()], [exact.plain_loss(*exact.y)], tol=1e-5)
    product = jvp(whole_gradient(case.loss, case), case.y, d)[1]
    for found, expected in ((product, plain_product(exact, wide)), (case.ggn(*d), plain_ggn(exact, wide))):
        assert all(t.dtype == dtype for t in found)
        rounding = max(torch.finfo(dtype).eps, 100 * torch.finfo(torch.float32).eps)  # 400 rows in float32
        for f, e in zip(found, expected, strict=True):
            assert gap([f.double()], [e]) <= rounding


def test_autocast_does_not_reach_the_sums() -> None:
    """The same bits inside and outside."""
    case = make_case(dtype=torch.float32)
    y = [t.clone().requires_grad_() for t in case.y]
    plain = torch.autograd.grad(case.loss(*y), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, ggn = case.loss(*y), case.ggn(*case.directions(1))
        assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(loss, y), plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ggn, case.ggn(*case.directions(1)), strict=True))


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(4, 2)}, r"hidden has shape \(5, 3\), weight \(4, 2\).*weight \(V, D\)"),
        ({"bias": torch.ones(3)}, r"expected a bias \(4,\), not \(3,\)"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"expected targets \(5,\) of integers"),
        ({"targets": torch.zeros(5, 4)}, r"targets \(5, 4\) \(float32\)"),
        ({"targets": torch.tensor([0, 1, 9, 2, 3])}, r"a target is 9: expected 0 <= target < 4, or ignore_index=-100"),
        ({"softcap": 0.0}, r"softcap=0.0: expected a positive number"),
        ({"logit_scale": 0.0}, r"logit_scale=0.0: expected a finite number that is not 0"),
        ({"class_weights": torch.ones(3)}, r"class_weights has shape \(3,\): expected \(4,\)"),
        ({"class_weights": -torch.ones(4)}, r"class_weights has the entry -1"),
        ({"label_smoothing": 1.5}, r"label_smoothing"),
        ({"chunk_bytes": 0}, r"chunk_bytes"),
        ({"reduction": "mean"}, r"reduction='mean': expected one of 'sum', 'none'"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    case = make_case(ignored=())
    fields = {"hidden": case.hidden, "weight": case.weight, "bias": case.bias, "targets": case.targets, **change}
    with pytest.raises(ValueError, match=words):
        linear_ce(**fields)


def test_directions_that_do_not_fit_are_named() -> None:
    case = make_case(ignored=())
    with pytest.raises(ValueError, match="expected a direction"):
        linear_ce_ggn(*case.y, case.targets, None, None, None)
    with pytest.raises(ValueError, match="db only where there is a bias"):
        linear_ce_ggn(case.hidden, case.weight, None, case.targets, None, None, case.bias)
    with pytest.raises(ValueError, match=r"a direction has shape \(2, 4\): expected \(4, 3\), or that with k before"):
        linear_ce_ggn(*case.y, case.targets, None, torch.ones(2, 4), None)
    with pytest.raises(ValueError, match="a direction has shape"):
        linear_ce_ggn(*case.y, case.targets, case.hidden[None], case.weight, None)


def test_the_default_kernel_is_the_reference() -> None:
    assert Kernels().linear_ce is chunked_linear_ce
    assert Kernels() == Kernels(linear_ce=chunked_linear_ce)
