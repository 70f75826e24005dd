"""The problem tlens/bridge: a TransformerLens model by folder, hub id or native configuration, on text from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvkit_core import Problem
from curvkit_tlens.components import match_components
from curvkit_tlens.config import BridgeConfig
from curvkit_tlens.next_token import NextTokenLoss
from curvkit_tlens.text import documents, packed

__all__ = ["build"]

_BYTES = 256


def build(config: BridgeConfig) -> Problem:
    """Load the model, read and cut the text, and give the next tokens' loss as a problem.

    No code that comes with a model is run, whatever its folder holds. The global random state is as it was afterwards.

    Raises
    ------
    ValueError
        If a folder, the text or a field of the native configuration is not usable, or a sequence is longer than the
        model's context.
    """
    with torch.random.fork_rng(devices=[]):
        model = _native(config) if config.model is None else _loaded(config, config.model)
    if config.compatibility_mode:
        model.enable_compatibility_mode(disable_warnings=True)
    context = int(getattr(model.cfg, "n_ctx", 0) or 0)
    if context and config.sequence_length > context:
        msg = (
            f"sequence_length={config.sequence_length} is longer than the model's context: expected at most {context}."
        )
        raise ValueError(msg)
    encode, between = _encoder(model, config)
    tokens = packed(
        documents(config.text, config.text_field),
        encode,
        length=config.sequence_length,
        sequences=config.sequences,
        between=between,
    )
    components = config.components or (("attn",) if config.heads is not None else ())
    problem = Problem(
        model,
        list(tokens.split(config.batch_size)),
        NextTokenLoss(),
        params=match_components(*components, heads=config.heads) if components else None,
        weighting=config.weighting,
    )
    source = config.model if config.model is not None else "a native network with random weights"
    problem.description = (
        f"{model.cfg.architecture or type(model).__name__} ({source}), {model.cfg.n_layers} layers of "
        f"{model.cfg.n_heads} heads, on {len(tokens):,} sequences of {config.sequence_length} tokens from {config.text}"
    )
    return problem


def _loaded(config: BridgeConfig, name: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    place = Path(name)
    if place.is_dir() and not (place / "config.json").is_file():
        msg = f"model={name!r}: the folder has no config.json. Expected what save_pretrained writes of a model."
        raise ValueError(msg)
    if not place.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        msg = f"model={name!r}: no such folder. Paths are seen from where the command is run; a hub id is 'owner/name'."
        raise ValueError(msg)
    return TransformerBridge.boot_transformers(
        str(place.resolve()) if place.is_dir() else name, dtype=getattr(torch, config.dtype), device=config.device
    )


def _native(config: BridgeConfig) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import native

    fields = {"seed": config.seed} | config.native
    try:
        made = TransformerBridgeConfig(**fields)
    except (TypeError, ValueError) as error:
        msg = f"native={config.native!r}: {error}. Expected fields of transformer_lens's TransformerBridgeConfig."
        raise ValueError(msg) from error
    return native.boot(made, dtype=getattr(torch, config.dtype), device=config.device)


def _encoder(model: nn.Module, config: BridgeConfig) -> tuple[Callable[[str], list[int]], int | None]:
    """Text -> tokens, and the token between two texts."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]), tokenizer.eos_token_id
    vocabulary = int(model.cfg.d_vocab)  # type: ignore[union-attr, arg-type]
    if vocabulary < _BYTES:
        msg = f"native.d_vocab={vocabulary}: without a tokenizer text is read as bytes: expected {_BYTES} or more."
        raise ValueError(msg)
    return lambda text: list(text.encode()), None
