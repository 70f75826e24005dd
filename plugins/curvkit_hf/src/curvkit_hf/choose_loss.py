"""The loss adapter that fits a model, by the names of its classes."""

from __future__ import annotations

import fnmatch
from typing import Any

from torch import nn

from curvkit_hf.adapter_names import ADAPTERS
from curvkit_hf.causal_lm import CausalLMLoss
from curvkit_hf.classification import ImageClassificationLoss, SequenceClassificationLoss
from curvkit_hf.inner_model import inner_model
from curvkit_hf.masked_lm import MaskedLMLoss
from curvkit_hf.seq2seq_lm import Seq2SeqLMLoss
from curvkit_hf.token_classification import TokenClassificationLoss

__all__ = ["loss_for"]

_CLASSES = (
    CausalLMLoss,
    MaskedLMLoss,
    Seq2SeqLMLoss,
    SequenceClassificationLoss,
    TokenClassificationLoss,
    ImageClassificationLoss,
)


def loss_for(model: nn.Module) -> Any:
    """Give the adapter for a transformers model, found by its class's name, inside wrappers too.

    Raises
    ------
    ValueError
        If none of its classes has a name of the known kinds; they are listed.
    """
    inner = inner_model(model)
    names = [cls.__name__ for cls in type(inner).__mro__ if cls is not object]
    by_name = {cls.__name__: cls for cls in _CLASSES}
    for adapter, globs, _ in ADAPTERS.values():
        if any(fnmatch.fnmatchcase(name, glob) for name in names for glob in globs):
            found = by_name[adapter]
            decodes_only = found is Seq2SeqLMLoss and not getattr(inner.config, "is_encoder_decoder", False)
            return CausalLMLoss() if decodes_only else found()
    known = ", ".join(glob for _, globs, _ in ADAPTERS.values() for glob in globs)
    msg = f"no loss adapter fits {names[0]} (its classes: {', '.join(names)}): expected one named like {known}."
    raise ValueError(msg)
