"""What curvkit asks of every loss adapter and problem, one test a law."""

from __future__ import annotations

from typing import Any

import pytest

from curvkit_core import Problem
from curvkit_core.testing import Case, parametrize_with_checks
from curvkit_hf import CausalLMLoss, MaskedLMLoss, Seq2SeqLMLoss
from curvkit_hf.cases import cases

LANGUAGE = {"hf/causal-lm": CausalLMLoss, "hf/masked-lm": MaskedLMLoss, "hf/seq2seq-lm": Seq2SeqLMLoss}


@parametrize_with_checks(plugin="hf")
def test_conformance(check: Any) -> None:
    """Passes, or fails as expected with the reason."""
    check()


@pytest.mark.parametrize("case", [case for case in cases() if case.component in LANGUAGE], ids=lambda case: case.label)
def test_language_models_are_tried_from_their_heads(case: Case) -> None:
    """Control: what the laws are asked of has hidden states and a head's weight, or logits where the case says so."""
    loss = LANGUAGE[case.component]()
    model, batches = case.model().eval(), case.batches()
    bound = Problem(model, batches, loss).loss if case.bind else loss
    with_bias = case.label in ("BERT", "BART")  # which is a buffer, in the latter
    assert len(bound.outputs(model, batches[0])) == (1 if not case.bind else 3 if with_bias else 2)
