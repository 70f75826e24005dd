"""Which loss adapter is for which model, by the names of its classes; imports nothing."""

from __future__ import annotations

__all__ = ["ADAPTERS"]

#: Stem in the registry: class in this package, globs of model classes, a line for people.
ADAPTERS = {
    "causal-lm": (
        "CausalLMLoss",
        ("*ForCausalLM", "*LMHeadModel"),
        "Next-token cross-entropy of causal language models, without the logits",
    ),
    "masked-lm": (
        "MaskedLMLoss",
        ("*ForMaskedLM",),
        "Cross-entropy of masked tokens, without the logits",
    ),
    "seq2seq-lm": (
        "Seq2SeqLMLoss",
        ("*ForConditionalGeneration", "*ForSeq2SeqLM"),
        "Cross-entropy of an encoder-decoder's output, without the logits",
    ),
    "sequence-classification": (
        "SequenceClassificationLoss",
        ("*ForSequenceClassification",),
        "A label, several labels or numbers for a sequence",
    ),
    "token-classification": (
        "TokenClassificationLoss",
        ("*ForTokenClassification",),
        "A label for each token",
    ),
    "image-classification": (
        "ImageClassificationLoss",
        ("*ForImageClassification",),
        "A label, several labels or numbers for an image",
    ),
}
