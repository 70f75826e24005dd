"""The problem hf/pretrained: a pretrained causal language model, text, and the loss it was trained with."""

from __future__ import annotations

from typing import Any

from curvkit_core import Problem
from curvkit_hf.causal_lm import CausalLMLoss
from curvkit_hf.config import PretrainedConfig
from curvkit_hf.inner_model import context_length
from curvkit_hf.loading import load_model_and_tokenizer
from curvkit_hf.text_sources import documents
from curvkit_hf.token_rows import token_batches
from curvkit_hf.unusable import refuse_unusable

__all__ = ["build"]


def build(config: PretrainedConfig) -> Problem:
    """Load the model, read and tokenise the text, and give its next-token cross-entropy as a problem.

    Raises
    ------
    ValueError
        If the model or the text cannot be had or read, or do not fit; named, with the mend.
    """
    model, tokenizer = load_model_and_tokenizer(config)
    refuse_unusable(model)
    length = context_length(model)
    if length is not None and config.sequence_length > length:
        msg = (
            f"sequence_length={config.sequence_length}: {type(model).__name__}'s positions are made for {length}. "
            f"Expected at most that."
        )
        raise ValueError(msg)
    texts = documents(config.text, field=config.text_field, subset=config.text_subset, split=config.text_split)
    batches = token_batches(tokenizer, texts, config)
    problem = Problem(
        model,
        batches,
        CausalLMLoss(),
        params=config.params,
        weighting=config.weighting,
        microbatch_size=config.microbatch_size,
    )
    problem.description = _description(config, model, batches)
    return problem


def _description(config: PretrainedConfig, model: Any, batches: list[dict[str, Any]]) -> str:
    rows = sum(len(batch["input_ids"]) for batch in batches)
    lengths = {batch["input_ids"].shape[1] for batch in batches}
    tokens = f"{max(lengths)}" if len(lengths) == 1 else f"{min(lengths)} to {max(lengths)}"
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{type(model).__name__}, {count:,} parameters, on {rows} rows of {tokens} tokens of {config.text}"
