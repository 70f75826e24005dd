"""Loss adapters: the sum over the number of units is torch's mean, and ggn is autograd's Hessian of the sum."""

from __future__ import annotations

import collections
import itertools
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import (
    BCEWithLogitsLoss,
    CallableLoss,
    CrossEntropyLoss,
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    MSELoss,
    Problem,
)
from curvkit_core.kernels import Kernels
from curvkit_core.losses import as_loss_adapter

F64 = torch.float64
TOL = 1e-12  # sums of at most 100 terms of order 1 in float64, times 50


def output_hessian(loss: Any, z: Tensor, batch: Any) -> Tensor:
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss.loss_sum((leaf,), batch), leaf, create_graph=True)
    eye = torch.eye(z.numel(), dtype=F64).view(-1, *z.shape)
    return torch.stack([torch.autograd.grad(slope, leaf, e, retain_graph=True)[0].reshape(-1) for e in eye])


def assert_consistent(loss: Any, z: Tensor, batch: Any, mean: Tensor) -> None:
    """Mean, units, curvature; and a curvature wrong by 1e-3 is told apart."""
    y = (z,)
    assert abs(loss.loss_sum(y, batch) / loss.num_units(batch) - mean) <= TOL
    assert abs(loss.unit_losses(y, batch).sum() - loss.loss_sum(y, batch)) <= TOL
    H = output_hessian(loss, z, batch)
    eye = torch.eye(z.numel(), dtype=F64).view(-1, *z.shape)
    G = loss.ggn(y, batch, (eye,))[0].reshape(z.numel(), -1)
    assert (G - H).abs().max() <= TOL
    assert (1.001 * G - H).abs().max() > TOL
    one = loss.ggn(y, batch, (eye[0],))[0]
    assert one.shape == z.shape
    assert torch.allclose(one.reshape(-1), G[0], rtol=0, atol=TOL)


OPTIONS = list(itertools.product([(5, 4), (3, 4, 2), (2, 4, 3, 2)], [0.0, 0.2], [False, True]))


@pytest.mark.parametrize(("shape", "smoothing", "weighted"), OPTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_cross_entropy_equals_torch(shape: Any, smoothing: float, weighted: bool, probabilities: bool) -> None:
    """Every rank, label smoothing, class weights, ignored targets, probability targets."""
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=F64)
    weight = torch.rand(4, dtype=F64) + 0.1 if weighted else None
    if probabilities:
        target = torch.rand(shape, dtype=F64)
    else:
        target = torch.randint(0, 4, shape[:1] + shape[2:])
        target.view(-1)[1] = -100
    mean = functional.cross_entropy(z, target, weight=weight, label_smoothing=smoothing)
    loss = CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    assert_consistent(loss, z, (None, target), mean)
    if not probabilities:
        assert len(loss.unit_losses((z,), (None, target))) == target.numel() - 1


def test_cross_entropy_with_another_ignore_index() -> None:
    z, target = torch.randn(4, 3, dtype=F64), torch.tensor([0, 1, 1, 2])
    mean = functional.cross_entropy(z, target, ignore_index=1)
    assert_consistent(CrossEntropyLoss(ignore_index=1), z, (None, target), mean)


def test_ignored_rows_may_hold_anything() -> None:
    """NaN logits of an ignored target change neither the sum, nor its gradients, nor the curvature."""
    torch.manual_seed(0)
    target = torch.tensor([-100, 1, 2])
    loss, batch = CrossEntropyLoss(), (None, target)
    clean = torch.randn(3, 4, dtype=F64)
    poisoned = clean.clone()
    poisoned[0] = float("nan")
    assert torch.equal(loss.loss_sum((poisoned,), batch), loss.loss_sum((clean,), batch))
    assert torch.equal(output_hessian(loss, poisoned, batch), output_hessian(loss, clean, batch))
    u = torch.ones(3, 4, dtype=F64)
    assert torch.equal(loss.ggn((poisoned,), batch, (u,))[0], loss.ggn((clean,), batch, (u,))[0])


def test_all_targets_ignored_is_zero_over_zero_units() -> None:
    loss, batch = CrossEntropyLoss(), (None, torch.tensor([-100, -100]))
    z = torch.randn(2, 3)
    assert float(loss.loss_sum((z,), batch)) == 0.0
    assert float(loss.num_units(batch)) == 0.0
    assert len(loss.unit_losses((z,), batch)) == 0


def test_mse_equals_torch() -> None:
    torch.manual_seed(0)
    for shape in ((5, 3), (5,), (2, 3, 2)):
        z, t = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
        assert_consistent(MSELoss(), z, (None, t), functional.mse_loss(z, t))


@pytest.mark.parametrize("positive", [None, torch.tensor([1.0, 2.0, 3.0], dtype=F64)])
def test_bce_equals_torch(positive: Tensor | None) -> None:
    """Soft labels, weights of positive labels."""
    torch.manual_seed(0)
    z, t = torch.randn(4, 3, dtype=F64), torch.rand(4, 3, dtype=F64)
    mean = functional.binary_cross_entropy_with_logits(z, t, pos_weight=positive)
    assert_consistent(BCEWithLogitsLoss(pos_weight=positive), z, (None, t), mean)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (MSELoss(), torch.ones(3, 2, dtype=F64)),
        (BCEWithLogitsLoss(), torch.ones(3, 2, dtype=F64)),
        (CrossEntropyLoss(), torch.tensor([1, 0, 1])),
        (CrossEntropyLoss(), torch.full((3, 2), 0.5, dtype=F64)),
    ],
)
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator, FisherOperator])
def test_an_empty_batch_changes_nothing(kind: Any, loss: Any, target: Tensor) -> None:
    """As a filter in a loader leaves them; alone they are no data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(F64)
    full = (torch.randn(3, 4, dtype=F64), target)
    empty = tuple(t[:0] for t in full)
    expected = kind(Problem(model, [full], loss)).to_dense()
    for batches in ([full, empty], [empty, full]):
        found = kind(Problem(model, batches, loss)).to_dense()
        assert (found - expected).abs().max() <= TOL * expected.abs().max()
    with pytest.raises(ValueError, match="gave no units"):
        kind(Problem(model, [empty], loss)).to_dense()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_class_targets_may_be_any_integers(dtype: torch.dtype) -> None:
    """torch's own cross-entropy takes int64 alone, and an index in uint8 is a mask."""
    z, target = torch.randn(5, 4, dtype=F64), torch.tensor([0, 3, 1, 1, 2])
    assert_consistent(CrossEntropyLoss(), z, (None, target.to(dtype)), functional.cross_entropy(z, target))


def test_targets_that_are_no_classes_are_named() -> None:
    """Before torch sees them, whose own check on a GPU cannot be caught."""
    model, x = nn.Linear(4, 3), torch.ones(2, 4)
    for wrong in (3, -1):
        text = rf"the target at \(1,\) is {wrong}: expected 0 <= target < 3, the logits' classes, or ignore_index=-100"
        with pytest.raises(ValueError, match=text):
            GGNOperator(Problem(model, [(x, torch.tensor([0, wrong]))], CrossEntropyLoss())) @ torch.ones(15)
    with pytest.raises(ValueError, match=r"float32 and shape \(2,\) are read as probabilities: .*pass target.l"):
        GGNOperator(Problem(model, [(x, torch.ones(2))], CrossEntropyLoss())) @ torch.ones(15)


def test_a_model_that_returns_a_number_is_named() -> None:
    class Mean(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean()

    with pytest.raises(ValueError, match="Mean returned a number: expected outputs with the examples on the leading"):
        GGNOperator(Problem(Mean(4, 3), [(torch.ones(2, 4), torch.ones(2))], MSELoss())) @ torch.ones(15)


def test_targets_of_another_shape_are_named() -> None:
    z = torch.randn(4, 1)
    with pytest.raises(ValueError, match=r"predictions have shape \(4, 1\), targets \(4,\): expected equal shapes"):
        MSELoss().loss_sum((z,), (None, torch.randn(4)))
    with pytest.raises(ValueError, match=r"targets have shape \(4, 1\), logits \(4, 3\): expected targets \(4,\)"):
        CrossEntropyLoss().loss_sum((torch.randn(4, 3),), (None, torch.zeros(4, 1, dtype=torch.long)))


def test_batches_of_every_make_are_read() -> None:
    """Tuples, mappings, UserDict, attrs: inputs by position or by name."""

    @attrs.frozen
    class Batch:
        x: Tensor
        y: Tensor

    class Net(nn.Module):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return x * scale

    x, y = torch.randn(3, 2), torch.tensor([0, 1, 1])
    for batch in ((x, y), {"x": x, "y": y}, collections.UserDict(x=x, labels=y), Batch(x, y)):
        loss = CrossEntropyLoss()
        assert torch.equal(loss.outputs(Net(), batch)[0], x)
        assert float(loss.num_units(batch)) == 3
    loss = CrossEntropyLoss(target="class", inputs=("image",))
    assert torch.equal(loss.outputs(Net(), {"image": x, "class": y, "id": 7})[0], x)
    with pytest.raises(ValueError, match="keys x, z: expected one of labels, label"):
        CrossEntropyLoss().num_units({"x": x, "z": y})
    with pytest.raises(ValueError, match="no input 'image'"):
        loss.outputs(Net(), {"picture": x, "class": y})
    with pytest.raises(TypeError, match="Net returned a tuple"):
        CrossEntropyLoss().outputs(type("Net", (nn.Module,), {"forward": lambda self, x: (x, x)})(), (x, y))


def test_models_that_return_logits_in_an_object_are_read() -> None:
    out = collections.namedtuple("Out", "logits")

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return out(2 * x)

    x = torch.randn(3, 2)
    assert torch.equal(CrossEntropyLoss().outputs(Net(), (x, torch.zeros(3, dtype=torch.long)))[0], 2 * x)


def test_the_problems_kernel_is_the_one_that_computes() -> None:
    """An adapter with other kernels gives those kernels' product."""
    loss = CrossEntropyLoss().with_kernels(Kernels(ce_hvp=lambda z, w, u: torch.full_like(u, 7.0)))
    z = torch.randn(2, 3)
    assert loss.ggn((z,), (None, torch.tensor([0, 1])), (z,))[0].unique().tolist() == [7.0]


def test_torch_criteria_become_adapters_with_their_options() -> None:
    weight = torch.tensor([1.0, 2.0])
    loss = as_loss_adapter(nn.CrossEntropyLoss(weight=weight, ignore_index=3, label_smoothing=0.1))
    assert isinstance(loss, CrossEntropyLoss)
    assert (loss.ignore_index, loss.label_smoothing) == (3, 0.1)
    assert torch.equal(loss.weight, weight)
    assert isinstance(as_loss_adapter(nn.MSELoss()), MSELoss)
    assert torch.equal(as_loss_adapter(nn.BCEWithLogitsLoss(pos_weight=weight)).pos_weight, weight)
    with pytest.raises(ValueError, match=r"CrossEntropyLoss\(reduction='sum'\): expected reduction='mean'"):
        as_loss_adapter(nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(TypeError, match=r"Pass an instance: CrossEntropyLoss\(\)"):
        as_loss_adapter(CrossEntropyLoss)
    with pytest.raises(TypeError, match=r"CallableLoss\(fn\)"):
        as_loss_adapter(lambda model, batch: 0)


def test_callable_loss_counts_units() -> None:
    batch = (torch.randn(5, 2), torch.randn(5))
    loss = CallableLoss(lambda model, b: b[0].mean())
    assert loss.num_units(batch) == 5
    assert torch.allclose(loss.loss_sum(loss.outputs(nn.Linear(1, 1), batch), batch), 5 * batch[0].mean())
    assert CallableLoss(lambda m, b: b, num_units=lambda b: 3).num_units(batch) == 3
    with pytest.raises(ValueError, match=r"returned shape \(2,\): expected a scalar tensor"):
        CallableLoss(lambda m, b: b[0][0]).outputs(nn.Linear(1, 1), batch)
    with pytest.raises(ValueError, match="number of units in a batch of type dict cannot be told"):
        loss.num_units({"a": 1})
