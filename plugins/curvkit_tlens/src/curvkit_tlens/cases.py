"""What the conformance checks try this plugin on: a tiny TransformerLens network of random weights, without a network.

The bridge is native, in float64: one layer of two heads on seven tokens. The truths differentiate the model's own
logits twice, an output at a time; they know nothing of heads that are left out, nor of curvkit's own products.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import Problem
from curvkit_core.testing import Case, dense_ggn, dense_hessian
from curvkit_tlens.components import match_components
from curvkit_tlens.next_token import NextTokenLoss

__all__ = ["cases"]

_HOOK = "blocks.0.hook_resid_post"
_IGNORED = -100
_SIZES: dict[str, Any] = {"n_layers": 1, "d_model": 4, "n_ctx": 8, "d_head": 2, "n_heads": 2, "act_fn": "gelu"}
_NETWORK: dict[str, Any] = {
    **_SIZES,
    "d_vocab": 7,
    "seed": 0,
    "init_mode": "gpt2",
    "initializer_range": 0.5,
}
_DIRECTIONS = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.5, 1.0, 0.0, 0.0], [0.0, 3.0, 1.0, -1.0]], dtype=torch.float64)
Batch = dict[str, Tensor]


def cases() -> tuple[Case, ...]:
    """The loss from its head and from logits, both operators, whole and in part, and a native network on text."""
    by_place = {"operator-any-order-and-twice": "its vectors are the activation over all data, in the data's order"}
    names_its_own = {
        "operator-subset": "its parameters are those of the components that it names, whichever the problem has"
    }
    component = "tlens/component"
    return (
        *(
            Case(
                component="tlens/next-token",
                label=label,
                model=_bridge,
                batches=_batches,
                bind=label == "head",
                with_ignored=_padded_and_a_row_more,
                truth=_cross_entropy,
            )
            for label in ("head", "logits")
        ),
        Case(
            component="tlens/hook-point",
            label="whole",
            options={"hook": _HOOK},
            problem=_problem,
            truth=_in_the_activation,
            expected_failed=by_place,
        ),
        Case(
            component="tlens/hook-point",
            label="directions",
            options={"hook": _HOOK, "directions": _file("directions.safetensors")},
            problem=_problem,
            truth=_along_directions,
        ),
        Case(
            component=component,
            label="ggn",
            options={"components": ["blocks.0.attn"]},
            problem=_problem_of_attention,
            truth=lambda problem: dense_ggn(_from_logits(problem)),
            expected_failed=names_its_own,
        ),
        Case(
            component=component,
            label="hessian",
            options={"components": ["blocks.0.attn"], "of": "hessian"},
            problem=_problem_of_attention,
            truth=lambda problem: dense_hessian(_from_logits(problem)),
            expected_failed=names_its_own,
        ),
        Case(
            component=component,
            label="one head",
            options={"components": ["W_Q", "W_V"], "heads": [1], "of": "hessian"},
            problem=_problem,
            truth=_of_one_head,
        ),
        Case(
            component="tlens/bridge",
            label="native",
            options={
                "native": {**_SIZES, "d_vocab": 256},
                "text": _file("text.txt"),
                "sequence_length": 6,
                "sequences": 3,
                "batch_size": 2,
                "dtype": "float64",
            },
            prepare=_called_once,
        ),
    )


def _bridge() -> nn.Module:
    with warnings.catch_warnings():  # what transformer_lens and its own dependencies say when they are imported
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        with torch.random.fork_rng(devices=[]):
            made: nn.Module = TransformerBridge.boot_native(dict(_NETWORK), dtype=torch.float64, device="cpu")
            return _called_once(made)


def _called_once(bridge: nn.Module) -> nn.Module:
    """With its first forward a bridge sets hooks of its own, which stay: no product's doing."""
    with torch.no_grad():
        bridge(torch.zeros(1, 2, dtype=torch.long))
    return bridge


def _batches() -> list[Batch]:
    """Two of different lengths, the first with a padded row, and a label that is ignored."""
    found = []
    for seed, (rows, length) in enumerate(((3, 5), (2, 4)), start=1):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, _NETWORK["d_vocab"], (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -1] = 0
        labels = ids.clone()
        labels[0, 2] = _IGNORED
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def _tokens() -> list[Tensor]:
    tokens = torch.randint(0, _NETWORK["d_vocab"], (4, 3), generator=torch.Generator().manual_seed(3))
    return [tokens[:3], tokens[3:]]


def _problem() -> Problem:
    return Problem(_bridge(), _tokens(), NextTokenLoss())


def _problem_of_attention() -> Problem:
    return _problem().restrict(match_components("blocks.0.attn"))


def _padded_and_a_row_more(batch: Batch) -> Batch:
    """Two positions of padding on the right, then a row in front that has tokens and no labels."""
    filled = {"input_ids": 5, "attention_mask": 0, "labels": 3}
    longer = {name: functional.pad(value, (0, 2), value=filled[name]) for name, value in batch.items()}
    first = {name: value[-1:].clone() for name, value in longer.items()}
    first["labels"].fill_(_IGNORED)
    return {name: torch.cat([first[name], value]) for name, value in longer.items()}


# Truths.


def _cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Over pairs of neighbours that are no padding, by slices of the model's own logits."""
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(batch["input_ids"], return_type="logits", attention_mask=batch["attention_mask"])
    labels = batch["labels"][:, 1:]
    keep = mask[:, 1:] & mask[:, :-1] & (labels != _IGNORED)
    chosen = logits[:, :-1][keep].log_softmax(-1).gather(-1, labels[keep][:, None])
    return -chosen.sum(), int(keep.sum())


def _from_logits(problem: Problem) -> Problem:
    """The same problem, its loss computed from the logits: one output."""
    return Problem(problem.model, problem.batches, NextTokenLoss(chunked=False), params=list(problem.parameters.names))


def _of_one_head(problem: Problem) -> Tensor:
    """The rows and columns of head 1, of the Hessian in the whole of W_Q and W_V."""
    part = problem.restrict(match_components("W_Q", "W_V", heads=[1])).parameters
    whole = problem.restrict(list(part.names))
    starts = {entry.name: entry.place.start for entry in whole.parameters.entries}
    places = torch.cat([starts[e.name] + e.elements for e in part.entries if e.elements is not None])
    return dense_hessian(_from_logits(whole))[places][:, places]


def _in_the_activation(problem: Problem) -> Tensor:
    """The Hessian of the mean in what is added to the activation, a block a batch."""
    blocks = []
    for tokens in problem.batches:
        shape = (*tokens.shape, _NETWORK["d_model"])
        added = torch.zeros(shape, dtype=torch.float64)
        found = torch.func.hessian(lambda e, tokens=tokens: _loss_with(problem.model, tokens, e))(added)
        blocks.append(found.detach().reshape(added.numel(), added.numel()))
    return torch.block_diag(*blocks) / _pairs(problem)


def _along_directions(problem: Problem) -> Tensor:
    """The Hessian of the mean in the coefficients of directions that are added at every position."""

    def steered(c: Tensor) -> Tensor:
        shift = c @ _DIRECTIONS
        return torch.stack([_loss_with(problem.model, tokens, shift) for tokens in problem.batches]).sum()

    return torch.func.hessian(steered)(torch.zeros(len(_DIRECTIONS), dtype=torch.float64)).detach() / _pairs(problem)


def _loss_with(model: Any, tokens: Tensor, added: Tensor) -> Tensor:
    """The sum over next tokens, with something added to the residual stream."""
    logits = model.run_with_hooks(tokens, fwd_hooks=[(_HOOK, lambda a, hook: a + added)])[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def _pairs(problem: Problem) -> int:
    return sum(tokens[:, 1:].numel() for tokens in problem.batches)


# Files that options name.


@functools.cache
def _place() -> Path:
    """A temporary folder with directions and a text, removed when this process ends."""
    from safetensors.torch import save_file

    kept = tempfile.TemporaryDirectory(prefix="curvkit-tlens-")
    atexit.register(kept.cleanup)
    place = Path(kept.name)
    save_file({"directions": _DIRECTIONS}, place / "directions.safetensors")
    (place / "text.txt").write_text("curvature of a network, one token after another", encoding="utf-8")
    return place


def _file(name: str) -> str:
    return str(_place() / name)
