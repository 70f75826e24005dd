"""Every family: the loss is the model's own, the head is found, and products are the dense matrices'."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hf_families import (
    F64,
    FAMILIES,
    batch_for,
    dense_hessian,
    family_model,
    gauss_newton_product,
    logits_and_targets,
    own_loss,
    relative,
    without_padding_rows,
)
from torch import Tensor, nn
from transformers import ProphetNetConfig, ProphetNetForConditionalGeneration

import curvkit_hf
from curvkit_core import EmpiricalFisherOperator, FisherOperator, GGNOperator, HessianOperator, Problem

each_family = pytest.mark.parametrize("name", FAMILIES)
each_attention = pytest.mark.parametrize(
    ("name", "attention"), [(name, attention) for name, family in FAMILIES.items() for attention in family.attentions]
)


def problem_of(name: str, model: nn.Module, **options: Any) -> Problem:
    family = FAMILIES[name]
    return Problem(model, [batch_for(family.adapter)], getattr(curvkit_hf, family.adapter)(), **options)


@cache
def dense_products(name: str) -> tuple[Tensor, Tensor]:
    """Two vectors and the dense Gauss-Newton matrix times them, under eager attention."""
    model = without_padding_rows(family_model(name))
    problem = problem_of(name, model)
    V = problem.space.random("gaussian", 7, 0, 2)
    rows, _ = logits_and_targets(model, batch_for(FAMILIES[name].adapter), FAMILIES[name].adapter)
    return V, gauss_newton_product(rows, [e.parameter for e in problem.parameters], V)


@each_family
def test_the_value_is_the_models_own_loss(name: str) -> None:
    """To 2e-6: transformers sums it in float32, eps32 = 1.2e-7 times the logits' size."""
    model, family = family_model(name), FAMILIES[name]
    batch, loss = batch_for(family.adapter), getattr(curvkit_hf, family.adapter)()
    with torch.no_grad():
        for adapter in (loss, loss.bind(model, batch)[0]):
            y = adapter.outputs(model, batch)
            value = adapter.loss_sum(y, batch) / adapter.num_units(batch)
            assert relative(value, own_loss(model, batch).to(F64)) <= 2e-6
            off = adapter.loss_sum(y, {**batch, "labels": batch["labels"].roll(1, dims=0)}) / adapter.num_units(batch)
            assert relative(off, own_loss(model, batch).to(F64)) > 2e-6


@each_family
def test_the_head_is_found_and_no_logits_are_made(name: str) -> None:
    """Bound, the outputs are hidden states and the head's own weight; unbound, the same losses come from logits."""
    model, family = family_model(name), FAMILIES[name]
    problem = problem_of(name, model)
    batch = batch_for(family.adapter)
    assert problem.loss.head == family.head or (name, problem.loss.head) == ("gpt-neox", "embed_out")  # so in 5.0
    assert problem.history.findings == []
    with torch.no_grad():
        y = problem.loss.outputs(model, batch)
        logits = getattr(curvkit_hf, family.adapter)().outputs(model, batch)
        unbound = getattr(curvkit_hf, family.adapter)().unit_losses(logits, batch)
        assert relative(problem.loss.unit_losses(y, batch), unbound) <= 1e-12  # two ways to add up 16 products
    assert y[0].shape[-1] == y[1].shape[1] != y[1].shape[0]
    assert len(logits) == 1


@each_attention
def test_gauss_newton_products_match_the_dense_matrix(name: str, attention: str) -> None:
    """Kept graph and lean, with the head chunked; with logits by the same engine."""
    V, expected = dense_products(name)
    model, family = family_model(name, attention), FAMILIES[name]
    for options in ({"strategy": "reverse", "cache": "keep"}, {"strategy": "lean"}):
        found = GGNOperator(problem_of(name, model), **options).apply(V)
        assert relative(found, expected) <= family.tolerance
        assert relative(found * (1 + 1e-4), expected) > family.tolerance


@each_attention
def test_hessian_products_match_the_dense_matrix(name: str, attention: str) -> None:
    """Over the vectors and biases of norms, some hundred parameters that stand at every depth."""
    eager, family = family_model(name), FAMILIES[name]
    batch = batch_for(family.adapter)
    small = [n for n, p in eager.named_parameters() if p.ndim == 1][:6]
    named = dict(eager.named_parameters())
    rows, targets = logits_and_targets(eager, batch, family.adapter)
    dense = dense_hessian(rows, targets, [named[n] for n in small])
    found = HessianOperator(problem_of(name, family_model(name, attention), params=small)).to_dense()
    assert relative(found, dense) <= family.tolerance
    assert relative(found * (1 + 1e-4), dense) > family.tolerance


@each_family
def test_fishers_are_those_of_the_logits(name: str) -> None:
    """The empirical and the sampled one, through the head and through the logits."""
    model, family = family_model(name), FAMILIES[name]
    bound = problem_of(name, model)
    batch = batch_for(family.adapter)

    class Plain:
        """The same adapter, never bound."""

        def __init__(self) -> None:
            self.inner = getattr(curvkit_hf, family.adapter)()
            for method in ("outputs", "loss_sum", "num_units", "unit_losses", "sample_targets", "sampled_losses"):
                setattr(self, method, getattr(self.inner, method))

    plain = Problem(model, [batch], Plain())
    for kind, options in ((EmpiricalFisherOperator, {}), (FisherOperator, {"num_samples": 2, "seed": 3})):
        V = bound.space.random("gaussian", 7, 0, 1)
        expected = kind(plain, **options).apply(V)
        assert relative(kind(bound, **options).apply(V), expected) <= family.tolerance


def test_positions_that_read_their_padding_row_keep_it() -> None:
    """ProphetNet's are an embedding with its own forward. In float32, as it asks: some hundred roundings of 1e-7."""
    torch.manual_seed(0)
    parts = ("encoder", "decoder")
    sizes = {f"{part}_ffn_dim": 4 for part in parts}
    numbers = {f"num_{part}_{what}": 1 for part in parts for what in ("layers", "attention_heads")}
    config = ProphetNetConfig(vocab_size=40, hidden_size=8, max_position_embeddings=32, ngram=2, **sizes, **numbers)
    model = ProphetNetForConditionalGeneration(config).eval()
    batch = batch_for("Seq2SeqLMLoss")
    small = [n for n, p in model.named_parameters() if p.ndim == 1][:6]
    named = dict(model.named_parameters())
    rows, targets = logits_and_targets(model, batch, "Seq2SeqLMLoss")
    dense = dense_hessian(rows, targets, [named[n] for n in small])
    problem = Problem(model, [batch], curvkit_hf.Seq2SeqLMLoss(), params=small)
    for options in ({"strategy": "reverse"}, {"strategy": "lean"}):
        found = HessianOperator(problem, **options).to_dense()
        assert relative(found, dense) <= 1e-4
        assert relative(1.001 * found, dense) > 1e-4
        assert GGNOperator(problem, **options).to_dense().isfinite().all()


@pytest.mark.parametrize("kind", [GGNOperator, FisherOperator, EmpiricalFisherOperator])
def test_labels_may_be_any_integers(kind: Any) -> None:
    model, batch = family_model("gpt2"), batch_for("CausalLMLoss")
    other = {**batch, "labels": batch["labels"].to(torch.int32), "input_ids": batch["input_ids"].to(torch.int32)}
    wide, narrow = (Problem(model, [b], curvkit_hf.CausalLMLoss()) for b in (batch, other))
    V = wide.space.random("gaussian", 7, 0, 1)
    assert torch.equal(kind(narrow).apply(V), kind(wide).apply(V))
