"""What the conformance checks try this plugin on: tiny models with random weights, and batches with what is ignored.

Nothing is loaded from the network. Models are in float64 where transformers computes in the parameters' dtype
throughout (GPT-2, BERT, BART, ViT); T5 holds float32 inside its norms, so it is tried in float32. The truths are sums
over the model's own logits, by textbook slices; ``.loss`` itself is no such truth, since transformers adds it up in
float32.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core.testing import Case

__all__ = ["cases"]

_WORDS = ["<pad>", "<end>", "<unk>", *"abcdefghij"]
_VOCABULARY, _IGNORED = 20, -100
_SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1}
_BART: dict[str, int] = {"layers": 1, "attention_heads": 2, "ffn_dim": 12}
_SEQUENCES: dict[str, Any] = {"vocab_size": _VOCABULARY, "max_position_embeddings": 16, **_SIZES}
Batch = dict[str, Tensor]


def cases() -> tuple[Case, ...]:
    """One for each kind of model and task, and a language model with its text in a folder of its own."""
    one_of_three = torch.tensor([2, 0, 1])
    each_of_three = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    numbers = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    bert = "BertForSequenceClassification"
    sequence, image = "hf/sequence-classification", "hf/image-classification"
    return (
        _tokens("hf/causal-lm", "GPT-2", _gpt2, _causal_batches, _shifted),
        _tokens("hf/causal-lm", "GPT-2, from logits", _gpt2, _causal_batches, _shifted, bind=False),
        _tokens("hf/masked-lm", "BERT", lambda: _bert("BertForMaskedLM"), _labelled_batches, _aligned),
        _tokens("hf/seq2seq-lm", "BART", _bart, _labelled_batches, _aligned),
        _tokens("hf/seq2seq-lm", "T5, float32", _t5, _labelled_batches, _aligned),
        _tokens(
            "hf/token-classification",
            "BERT",
            lambda: _bert("BertForTokenClassification", 3),
            lambda: _labelled_batches(3),
            _aligned,
        ),
        _examples(sequence, "one of three", lambda: _bert(bert, 3), _sequences(one_of_three), _one_class),
        _examples(sequence, "each of three", lambda: _bert(bert, 3), _sequences(each_of_three), _each_class),
        _examples(sequence, "a number", lambda: _bert(bert, 1), _sequences(numbers), _squared),
        _examples(image, "one of three", _vit, _images(one_of_three), _one_class),
        _examples(image, "each of three", _vit, _images(each_of_three), _each_class),
        *_pretrained(),
    )


def _pretrained() -> tuple[Case, ...]:
    """Its options name files, so these are made first; without transformers its checks are skips that say so."""
    if importlib.util.find_spec("transformers") is None:
        return ()
    options = {
        "model": str(_place() / "model"),
        "text": str(_place() / "text"),
        "sequence_length": 4,
        "max_tokens": 16,
        "shuffle": True,
        "batch_size": 2,
        "dtype": "float64",
    }
    return (Case(component="hf/pretrained", label="GPT-2", options=options),)


def _tokens(
    component: str,
    label: str,
    model: Callable[[], nn.Module],
    batches: Callable[[], list[Batch]],
    truth: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]],
    *,
    bind: bool = True,
) -> Case:
    return Case(
        component=component,
        label=label,
        model=model,
        batches=batches,
        bind=bind,
        with_ignored=_padded_and_a_row_more,
        truth=lambda made, batch: _cross_entropy(*truth(made, batch)),
    )


def _examples(
    component: str,
    label: str,
    model: Callable[[], nn.Module],
    batch: Batch,
    truth: Callable[[Tensor, Tensor], Tensor],
) -> Case:
    classes = not batch["labels"].is_floating_point()
    return Case(
        component=component,
        label=label,
        model=model,
        batches=lambda: [{name: value.clone() for name, value in batch.items()}],
        with_ignored=_a_row_more if classes else _padded if "input_ids" in batch else None,
        truth=lambda made, given: (truth(_logits(made, given), given["labels"]), len(given["labels"])),
    )


# Models.


def _settled(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, the same weights at each call, far from their tiny initial values; the random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=_VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=2, **_ENDS)
    return _settled(lambda: GPT2LMHeadModel(config))


def _bert(name: str, labels: int = 2) -> nn.Module:
    import transformers

    config = transformers.BertConfig(num_labels=labels, pad_token_id=0, **_SEQUENCES)
    return _settled(lambda: getattr(transformers, name)(config))


def _bart() -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    half = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in _BART.items()}
    config = BartConfig(vocab_size=_VOCABULARY, d_model=8, max_position_embeddings=16, forced_eos_token_id=None, **half)
    return _settled(lambda: BartForConditionalGeneration(config))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=_VOCABULARY, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return _settled(lambda: T5ForConditionalGeneration(config), torch.float32)


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=4, patch_size=2, num_channels=1, num_labels=3, **_SIZES)
    return _settled(lambda: ViTForImageClassification(config))


# Batches: two of different lengths, the first with a padded row, and targets that are ignored.


def _rows(rows: int, length: int, seed: int) -> Batch:
    ids = torch.randint(3, _VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    return {"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask}


def _causal_batches() -> list[Batch]:
    made = [_rows(3, 6, seed=1), _rows(2, 4, seed=2)]
    labels = [torch.where(b["attention_mask"] == 1, b["input_ids"], _IGNORED) for b in made]
    labels[0][0, 2] = _IGNORED
    return [{**batch, "labels": own} for batch, own in zip(made, labels, strict=True)]


def _labelled_batches(classes: int = _VOCABULARY) -> list[Batch]:
    found = []
    for seed, (rows, length) in enumerate(((3, 5), (2, 4)), start=1):
        batch = _rows(rows, length, seed)
        generator = torch.Generator().manual_seed(10 + seed)
        labels = torch.randint(0, classes, (rows, length), generator=generator)
        labels[batch["attention_mask"] == 0] = _IGNORED
        labels[0, 1] = _IGNORED
        found.append({**batch, "labels": labels})
    return found


def _sequences(labels: Tensor) -> Batch:
    return {**_rows(3, 5, seed=1), "labels": labels}


def _images(labels: Tensor) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator), "labels": labels}


def _padded(batch: Batch) -> Batch:
    """Two positions more, which the mask leaves out, and nothing is to be predicted at."""
    filled = {"input_ids": 5, "attention_mask": 0, "labels": _IGNORED}
    return {
        name: functional.pad(value, (0, 2), value=filled[name])
        if name != "labels" or value.shape == batch["input_ids"].shape
        else value
        for name, value in batch.items()
    }


def _a_row_more(batch: Batch) -> Batch:
    """A row in front, like the last one, whose labels are ignored."""
    first = {name: value[-1:] for name, value in batch.items()}
    first["labels"] = torch.full_like(first["labels"], _IGNORED)
    return {name: torch.cat([first[name], value]) for name, value in batch.items()}


def _padded_and_a_row_more(batch: Batch) -> Batch:
    return _a_row_more(_padded(batch))


# Truths.


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return found


def _shifted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    return _logits(model, batch)[:, :-1], batch["labels"][:, 1:]


def _aligned(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():  # with its labels, so that an encoder-decoder shifts them by its own rule
        return model(**batch).logits, batch["labels"]


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    keep = labels != _IGNORED
    chosen = logits[keep].log_softmax(-1).gather(-1, labels[keep][:, None])
    return -chosen.sum(), int(keep.sum())


def _one_class(logits: Tensor, labels: Tensor) -> Tensor:
    return _cross_entropy(logits, labels)[0]


def _each_class(logits: Tensor, labels: Tensor) -> Tensor:
    signed = torch.where(labels == 1, logits, -logits)
    return (1 + (-signed).exp()).log().mean(-1).sum()


def _squared(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits[:, 0] - labels).square().sum()


# A folder with a model, its tokenizer and a text.


@functools.cache
def _place() -> Path:
    """A temporary folder with ``model`` and ``text``, removed when this process ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    kept = tempfile.TemporaryDirectory(prefix="curvkit-hf-")
    atexit.register(kept.cleanup)
    place = Path(kept.name)
    config = GPT2Config(vocab_size=len(_WORDS), n_positions=16, n_embd=8, n_layer=1, n_head=2, **_ENDS)
    _settled(lambda: GPT2LMHeadModel(config), torch.float32).save_pretrained(place / "model")
    unknown, end = _WORDS[2], _WORDS[1]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=unknown, eos_token=end)
    tokenizer.save_pretrained(place / "model")
    (place / "text").mkdir()
    (place / "text" / "letters.txt").write_text("a b c d e f g h i j " * 8, encoding="utf-8")
    return place
