"""The problem core/digits-mlp: a real network, trained on real data, with no network connection."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from curvkit_core.losses.cross_entropy import CrossEntropyLoss
from curvkit_core.problem.digits_config import DigitsMLPConfig
from curvkit_core.problem.problem import Problem

__all__ = ["build"]

_ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}
_TRAIN_BATCH = 64
_TRAIN_SHARE = 0.8


def build(config: DigitsMLPConfig) -> Problem:
    """Load the digits, train the network, and give the training data's cross-entropy as a problem.

    The first 80 % of the images are the training set. The global random state is as it was afterwards.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    dtype = getattr(torch, config.dtype)
    images = torch.tensor(digits.data, dtype=dtype) / 16.0
    labels = torch.tensor(digits.target, dtype=torch.long)
    split = int(_TRAIN_SHARE * len(images))
    train, held_out = (images[:split], labels[:split]), (images[split:], labels[split:])
    if config.examples is not None:
        train = (train[0][: config.examples], train[1][: config.examples])

    model = _mlp(config, images.shape[1], int(labels.max()) + 1).to(dtype)
    _train(model, *train, config)
    batches = list(zip(train[0].split(config.batch_size), train[1].split(config.batch_size), strict=True))
    problem = Problem(model, batches, CrossEntropyLoss(), weighting=config.weighting)
    loss, accuracy = _evaluate(model, *train)
    _, held_out_accuracy = _evaluate(model, *held_out)
    layers = "-".join(map(str, (images.shape[1], *config.hidden, int(labels.max()) + 1)))
    problem.description = (
        f"{layers} {config.activation} MLP, {config.epochs} epochs on {len(train[0]):,} handwritten digits: "
        f"training loss {loss:.4f}, accuracy {accuracy:.1%} (held out: {held_out_accuracy:.1%})"
    )
    return problem


def _mlp(config: DigitsMLPConfig, inputs: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for fan_in, fan_out in pairwise((inputs, *config.hidden, classes)):
            layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[config.activation]()]
    return nn.Sequential(*layers[:-1])


def _train(model: nn.Module, images: Tensor, labels: Tensor, config: DigitsMLPConfig) -> None:
    order = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(images), generator=order).split(_TRAIN_BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()


def _evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        return float(loss), float((logits.argmax(1) == labels).double().mean())
