"""Padding changes nothing, wherever it stands and however the rows are cut; labels are derived without it."""

from __future__ import annotations

import pytest
import torch
from hf_families import F64, ROUNDING, VOCABULARY, family_model, relative, settled
from torch import Tensor
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel

from curvkit_core import EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_hf import CausalLMLoss

LENGTHS = (10, 250, 31, 97, 64, 180)


def rows_of(lengths: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor], side: str, positions: bool = False) -> dict[str, Tensor]:
    """One batch; what stands in the padding is a token like any other."""
    longest = max(map(len, rows))
    batch = {name: torch.zeros(len(rows), longest, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["input_ids"] += 7
    batch["position_ids"] = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        batch["input_ids"][i, place] = row
        batch["attention_mask"][i, place] = 1
        batch["position_ids"][i, place] = torch.arange(len(row))
    if not positions:
        del batch["position_ids"]
    return batch


def gpt2(length: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return settled(
        GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=length, n_embd=8, n_layer=2, n_head=2))
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", [GGNOperator, HessianOperator, EmpiricalFisherOperator])
def test_a_padded_batch_is_its_rows_one_by_one(kind: type, side: str) -> None:
    """Lengths 10 to 250, in one batch and in microbatches; position ids are the caller's where padding comes first."""
    model, rows = gpt2(256), rows_of(LENGTHS)
    alone = kind(Problem(model, [{"input_ids": row[None]} for row in rows], CausalLMLoss()))
    v = alone.space.random("gaussian", 0, 0, 1)
    expected = alone.apply(v)
    batch = padded(rows, side, positions=side == "left")
    for options in ({}, {"microbatch_size": 4}):
        problem = Problem(model, [batch], CausalLMLoss(), **options)
        assert relative(kind(problem).apply(v), expected) <= ROUNDING
        assert problem.num_units == sum(LENGTHS) - len(LENGTHS)
    unmasked = Problem(model, [{name: t for name, t in batch.items() if name != "attention_mask"}], CausalLMLoss())
    assert relative(kind(unmasked).apply(v), expected) > 1e-3


def test_without_labels_padding_and_each_rows_first_token_are_no_targets() -> None:
    """The positions that count are those of the rows alone."""
    rows = rows_of((3, 5))
    for side, expected in (("right", [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]), ("left", [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]])):
        targets = CausalLMLoss().targets(padded(rows, side))
        assert (targets != -100).int().tolist() == expected
        kept = [row[row != -100] for row in targets]
        assert all(torch.equal(k, row[1:]) for k, row in zip(kept, rows, strict=True))


def test_given_labels_are_shifted_as_transformers_does_and_shifted_ones_are_taken() -> None:
    labels = torch.tensor([[1, 2, -100, 4]])
    assert CausalLMLoss().targets({"labels": labels}).tolist() == [[2, -100, 4, -100]]
    assert CausalLMLoss().targets({"labels": labels, "shift_labels": labels}).tolist() == labels.tolist()


def test_a_tokenizers_batch_and_bare_ids_are_taken() -> None:
    """A BatchEncoding, cut into microbatches; a tensor of ids."""
    model = family_model("gpt2")
    ids = torch.stack(rows_of((6, 6, 6)))
    expected = GGNOperator(Problem(model, [{"input_ids": ids}], CausalLMLoss()))
    v = expected.space.random("gaussian", 0, 0, 1)
    for batch in (BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), ids):
        found = GGNOperator(Problem(model, [batch], CausalLMLoss(), microbatch_size=2)).apply(v)
        assert relative(found, expected.apply(v)) <= ROUNDING


def test_smoothing_is_the_targets_own() -> None:
    """(1 - e) times the plain loss and e times the mean over the vocabulary."""
    model, batch = family_model("gpt2"), padded(rows_of((6, 4)), "right")
    with torch.no_grad():
        logits = torch.log_softmax(model(**batch).logits, -1)
        targets = CausalLMLoss().targets(batch)
        keep = targets != -100
        plain = -logits[keep].gather(1, targets[keep][:, None]).sum()
        expected = 0.9 * plain - 0.1 * logits[keep].mean(1).sum()
        loss = CausalLMLoss(label_smoothing=0.1).bind(model, batch)[0]
        assert relative(loss.loss_sum(loss.outputs(model, batch), batch), expected.to(F64)) <= 1e-12
