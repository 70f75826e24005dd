"""Hugging Face transformers models, as a curvkit plugin. `_plugin` is what core loads; names are imported on use."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "CausalLMLoss": "curvkit_hf.causal_lm",
    "CurvatureCallback": "curvkit_hf.callback",
    "ImageClassificationLoss": "curvkit_hf.classification",
    "MaskedLMLoss": "curvkit_hf.masked_lm",
    "Seq2SeqLMLoss": "curvkit_hf.seq2seq_lm",
    "SequenceClassificationLoss": "curvkit_hf.classification",
    "TokenClassificationLoss": "curvkit_hf.token_classification",
    "loss_for": "curvkit_hf.choose_loss",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
