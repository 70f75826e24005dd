"""Core's loss adapters from their configuration: lists become tensors."""

from __future__ import annotations

import torch

from curvkit_core.losses.bce import BCEWithLogitsLoss
from curvkit_core.losses.config import BCEWithLogitsConfig, CrossEntropyConfig, LinearCrossEntropyConfig, MSEConfig
from curvkit_core.losses.cross_entropy import CrossEntropyLoss
from curvkit_core.losses.linear_cross_entropy import LinearCrossEntropyLoss
from curvkit_core.losses.mse import MSELoss

__all__ = ["build_bce_with_logits", "build_cross_entropy", "build_linear_cross_entropy", "build_mse"]


def build_cross_entropy(config: CrossEntropyConfig) -> CrossEntropyLoss:
    """Make the adapter that `config` describes."""
    return CrossEntropyLoss(
        ignore_index=config.ignore_index,
        label_smoothing=config.label_smoothing,
        weight=None if config.weight is None else torch.tensor(config.weight),
        target=config.target,
    )


def build_linear_cross_entropy(config: LinearCrossEntropyConfig) -> LinearCrossEntropyLoss:
    """Make the adapter that `config` describes."""
    return LinearCrossEntropyLoss(
        config.body,
        config.head,
        ignore_index=config.ignore_index,
        label_smoothing=config.label_smoothing,
        weight=None if config.weight is None else torch.tensor(config.weight),
        softcap=config.softcap,
        logit_scale=config.logit_scale,
        target=config.target,
    )


def build_mse(config: MSEConfig) -> MSELoss:
    """Make the adapter that `config` describes."""
    return MSELoss(target=config.target)


def build_bce_with_logits(config: BCEWithLogitsConfig) -> BCEWithLogitsLoss:
    """Make the adapter that `config` describes."""
    positive = None if config.pos_weight is None else torch.tensor(config.pos_weight)
    return BCEWithLogitsLoss(pos_weight=positive, target=config.target)
