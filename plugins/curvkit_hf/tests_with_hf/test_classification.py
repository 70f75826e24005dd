"""Labels for tokens, sequences and images: the model's own loss, and its own Hessian by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_families import F64, FLOAT32_INSIDE, ROUNDING, VOCABULARY, relative, settled
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    ViTConfig,
    ViTForImageClassification,
)

from curvkit_core import EmpiricalFisherOperator, FisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_hf import ImageClassificationLoss, SequenceClassificationLoss, TokenClassificationLoss, loss_for

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}


def bert(kind: type[nn.Module], labels: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, num_labels=labels, **SIZES, **options)
    return settled(kind(config))


def vit(labels: int) -> nn.Module:
    torch.manual_seed(0)
    config = ViTConfig(image_size=4, patch_size=2, num_channels=1, num_labels=labels, **SIZES)
    return settled(ViTForImageClassification(config))


def sequences(labels: Tensor) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[2, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def images(labels: Tensor) -> dict[str, Tensor]:
    pixels = torch.randn(3, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "labels": labels}


NUMBERS = torch.tensor([[0.5], [-1.0], [2.0]], dtype=F64)
MANY = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=F64)
ONE = torch.tensor([2, 0, 1])
TOKENS = torch.tensor([[0, 1, -100, 2, 2], [1, -100, 0, 0, 1], [2, 1, 0, -100, -100]])
REGRESSION = {"problem_type": "regression"}
CASES = {
    "one of three": lambda: (bert(BertForSequenceClassification, 3), sequences(ONE), SequenceClassificationLoss),
    "each of three": lambda: (bert(BertForSequenceClassification, 3), sequences(MANY), SequenceClassificationLoss),
    "a number": lambda: (bert(BertForSequenceClassification, 1), sequences(NUMBERS[:, 0]), SequenceClassificationLoss),
    "a whole number": lambda: (  # -100 is one as well
        bert(BertForSequenceClassification, 1),
        sequences(torch.tensor([1, -100, 3])),
        SequenceClassificationLoss,
    ),
    "three numbers": lambda: (
        bert(BertForSequenceClassification, 3, **REGRESSION),
        sequences(3.0 * MANY),
        SequenceClassificationLoss,
    ),
    "tokens": lambda: (bert(BertForTokenClassification, 3), sequences(TOKENS), TokenClassificationLoss),
    "image": lambda: (vit(3), images(ONE), ImageClassificationLoss),
    "image, each of three": lambda: (vit(3), images(MANY), ImageClassificationLoss),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_the_value_is_the_models_own_loss(case: Any) -> None:
    """To 2e-6, where transformers sums in float32."""
    model, batch, kind = case()
    problem = Problem(model, [batch], loss_for(model))
    assert type(problem.loss) is kind
    with torch.no_grad():
        y = problem.loss.outputs(model, batch)
        value = problem.loss.loss_sum(y, batch) / problem.loss.num_units(batch)
        assert relative(value, model(**batch).loss.to(F64)) <= 2e-6
        assert relative(problem.loss.unit_losses(y, batch).sum(), problem.loss.loss_sum(y, batch)) <= 1e-14


@each_case
def test_products_match_dense_matrices(case: Any) -> None:
    """The Hessian by autograd of the loss under eager attention, a row at a time; the GGN through dense J."""
    model, batch, kind = case()
    tolerance = FLOAT32_INSIDE if kind is ImageClassificationLoss else ROUNDING  # ViT's eager softmax is float32
    small = [name for name, p in model.named_parameters() if p.ndim == 1]
    problem = Problem(model, [batch], loss_for(model), params=small)
    own = [e.parameter for e in problem.parameters]
    loss = problem.loss
    model.set_attn_implementation("eager")
    y = loss.outputs(model, batch)
    units = float(loss.num_units(batch))
    slopes = torch.autograd.grad(loss.loss_sum(y, batch) / units, own, create_graph=True)
    H = dense_rows(torch.cat([s.reshape(-1) for s in slopes]), own)
    model.set_attn_implementation("sdpa")
    assert relative(HessianOperator(problem).to_dense(), H) <= tolerance
    J = dense_rows(y[0].reshape(-1), own)
    leaf = y[0].detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss.loss_sum((leaf,), batch), leaf, create_graph=True)
    G = J.mT @ dense_rows(slope.reshape(-1), [leaf]) @ J / units
    for options in ({"strategy": "reverse"}, {"strategy": "lean"}):
        assert relative(GGNOperator(problem, **options).to_dense(), G) <= tolerance
    assert relative(1.001 * GGNOperator(problem).to_dense(), G) > tolerance


@each_case
def test_the_sampled_fisher_tends_to_the_ggn(case: Any) -> None:
    """The same trace to four standard errors of 400 samples, each a trace of its own; the bound has power."""
    model, batch, _ = case()
    head = [name for name, _ in model.named_parameters() if name.startswith("classifier.bias")]
    problem = Problem(model, [batch], loss_for(model), params=head)
    G = GGNOperator(problem).to_dense()
    traces = torch.stack([FisherOperator(problem, num_samples=1, seed=seed).to_dense().trace() for seed in range(400)])
    error = float(traces.std()) / 20.0
    assert abs(float(traces.mean() - G.trace())) <= 4.0 * error
    assert error <= 0.1 * float(G.trace())
    assert EmpiricalFisherOperator(problem).to_dense().shape == G.shape


def test_cuts_and_order_change_nothing() -> None:
    model, batch, _ = CASES["each of three"]()
    expected = GGNOperator(Problem(model, [batch], loss_for(model)))
    v = expected.space.random("gaussian", 0, 0, 1)
    cut = [{name: t[rows] for name, t in batch.items()} for rows in (slice(2, 3), slice(0, 2))]
    assert relative(GGNOperator(Problem(model, cut, loss_for(model))).apply(v), expected.apply(v)) <= ROUNDING


def test_a_task_that_the_labels_do_not_show_is_asked_for() -> None:
    """A configuration's regression looks like yes-or-no labels: a problem looks it up, a bare adapter says so."""
    model, batch, _ = CASES["three numbers"]()
    with pytest.raises(ValueError, match="problem_type='regression', and .* look like 'multi_label_classification'"):
        SequenceClassificationLoss().outputs(model, batch)
    assert Problem(model, [batch], SequenceClassificationLoss()).loss.problem_type == "regression"
    with pytest.raises(ValueError, match="problem_type"):
        SequenceClassificationLoss(problem_type="ranking")


def test_labels_of_another_shape_or_class_are_named() -> None:
    model, batch, _ = CASES["one of three"]()
    with pytest.raises(ValueError, match=r"the target at \(0,\) is 7: expected 0 <= target < 3"):
        SequenceClassificationLoss().outputs(model, {**batch, "labels": torch.tensor([7, 0, 0])})
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), logits \(3, 3\): expected a number for each"):
        wrong = Problem(model, [{**batch, "labels": MANY[:, :2]}], SequenceClassificationLoss())
        GGNOperator(wrong) @ torch.ones(wrong.parameters.n, dtype=F64)
    with pytest.raises(ValueError, match="SequenceClassificationLoss: the batch has the fields input_ids.* no labels"):
        Problem(model, [{"input_ids": batch["input_ids"]}], SequenceClassificationLoss()).loss.num_units(
            {"input_ids": batch["input_ids"]}
        )


def dense_rows(outputs: Tensor, inputs: list[Tensor]) -> Tensor:
    """The derivative of each output in all inputs, a reverse pass a row."""
    rows = []
    for output in outputs:
        parts = torch.autograd.grad(output, inputs, retain_graph=True, allow_unused=True)
        pairs = zip(parts, inputs, strict=True)
        rows.append(torch.cat([(torch.zeros_like(i) if p is None else p).reshape(-1) for p, i in pairs]))
    return torch.stack(rows)
