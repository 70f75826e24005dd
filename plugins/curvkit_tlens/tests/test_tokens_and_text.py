"""Batches of tokens, text from files, parts of activations: what needs no transformer_lens."""

from __future__ import annotations

import collections
import json

import pytest
import torch

from curvkit_tlens.activation_part import ActivationPart
from curvkit_tlens.directions import read_directions
from curvkit_tlens.shown_layout import ShownLayout, shown_layout
from curvkit_tlens.text import documents, packed
from curvkit_tlens.token_batch import read_batch

TOKENS = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])


def test_targets_are_the_next_tokens_and_padding_counts_on_neither_side():
    """The last position has none; nor has one beside padding, whichever side that is on."""
    assert read_batch(TOKENS).next_tokens(-100).tolist() == [[6, 7, 8, -100], [2, 3, 4, -100]]
    masked = read_batch({"input_ids": TOKENS, "attention_mask": MASK})
    assert masked.next_tokens(-100).tolist() == [[6, 7, -100, -100], [-100, 3, 4, -100]]
    assert read_batch({"input_ids": TOKENS, "attention_mask": MASK.bool()}).next_tokens(-1)[0, 2] == -1
    labels = torch.where(TOKENS == 7, -100, TOKENS)
    assert read_batch({"tokens": TOKENS, "labels": labels}).next_tokens(-100)[0].tolist() == [6, -100, 8, -100]
    assert TOKENS[0, 1] == 6  # the batch itself is as it was


@pytest.mark.parametrize(
    "batch", [TOKENS, (TOKENS,), [TOKENS], {"tokens": TOKENS}, collections.UserDict(input_ids=TOKENS)]
)
def test_batches_of_every_make_hold_the_same_tokens(batch):
    assert read_batch(batch).tokens is TOKENS


@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ((TOKENS, TOKENS), TypeError, "a batch of type tuple: expected tokens, a tensor .* 'attention_mask': mask"),
        ("some text", TypeError, "a batch of type str: expected tokens"),
        ({"input_ids": TOKENS, "position_ids": TOKENS}, ValueError, "has the keys input_ids, position_ids: expected"),
        ({"input_ids": TOKENS, "tokens": TOKENS}, ValueError, "has the keys input_ids, tokens: expected"),
        ({"labels": TOKENS}, ValueError, "has the keys labels: expected input_ids or tokens"),
        (TOKENS[0], ValueError, r"tokens are torch.int64 of shape \(4,\): expected integers \(N, T\)"),
        (TOKENS.float(), ValueError, "tokens are torch.float32 .* expected integers"),
        ({"input_ids": TOKENS, "attention_mask": MASK[:1]}, ValueError, r"attention_mask has shape \(1, 4\): expected"),
    ],
)
def test_other_batches_are_refused_with_the_mend(batch, error, match):
    with pytest.raises(error, match=match):
        read_batch(batch)


def test_text_is_read_from_files_lines_and_folders(tmp_path):
    """A file is a document, a line of .jsonl is one; a folder's are read by name, other files left alone."""
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 2}\n')
    (tmp_path / "c.csv").write_text("no,text")
    assert list(documents(str(tmp_path), "text")) == ["one", "two", "bee"]
    assert list(documents(str(tmp_path / "b.txt"), "text")) == ["bee"]


def test_tokens_are_packed_end_to_end_and_read_no_further_than_needed():
    read = []

    def texts():
        for word in ("abc", "de", "fgh"):
            read.append(word)
            yield word

    def encode(text):
        return [ord(c) - ord("a") for c in text]

    every = packed(texts(), encode, length=4, sequences=None, between=99)
    assert every.tolist() == [[0, 1, 2, 99], [3, 4, 99, 5]]
    read.clear()
    assert packed(texts(), encode, length=2, sequences=1, between=None).tolist() == [[0, 1]]
    assert read == ["abc"]
    with pytest.raises(ValueError, match="the text has 8 tokens: expected at least sequence_length=9"):
        packed(texts(), encode, length=9, sequences=None, between=None)


def test_text_that_is_none_is_refused_with_the_mend(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        list(documents(str(tmp_path / "gone"), "text"))
    with pytest.raises(ValueError, match="the folder has no .txt, .md or .jsonl file"):
        list(documents(str(tmp_path), "text"))
    lines = tmp_path / "x.jsonl"
    lines.write_text(json.dumps({"body": "one"}))
    with pytest.raises(ValueError, match="x.jsonl:1 has no text under 'text': it has body. Set text_field"):
        list(documents(str(lines), "text"))
    lines.write_text("{")
    with pytest.raises(ValueError, match="x.jsonl:1 is no JSON"):
        list(documents(str(lines), "text"))


def test_parts_of_activations_are_views_at_their_places():
    """(batch, position, features), heads split from the last axis, heads before positions, pairs of positions."""
    raw = torch.arange(2 * 3 * 4.0).view(1, 24)
    rows = torch.cat([raw, -raw])
    plain = ShownLayout(raw=(2, 3, 4))
    part = ActivationPart(hook="blocks.0.hook_resid_post", position=-1)
    assert torch.equal(part.of(rows, plain), rows.view(2, 2, 3, 4)[:, :, -1])
    assert part.of(rows, plain).data_ptr() == rows[:, 8:].data_ptr()
    split = ShownLayout(raw=(2, 3, 4), tail=(2, 2))
    part = ActivationPart(hook="blocks.0.attn.hook_z", position=1, head=1)
    assert torch.equal(part.of(rows, split), rows.view(2, 2, 3, 2, 2)[:, :, 1, 1])
    assert (part.numel(split), part.tokens(split)) == (4, (2,))
    first = ShownLayout(raw=(2, 2, 3, 2))
    part = ActivationPart(hook="blocks.0.attn.hook_q_normed", pos_dim=-2, position=1)
    assert torch.equal(part.of(rows, first), rows.view(2, 2, 2, 3, 2)[:, :, :, 1])
    assert torch.equal(part.by_token(rows, first), part.of(rows, first))
    every = ActivationPart(hook="blocks.0.attn.hook_q_normed", pos_dim=-2, head=1)
    assert torch.equal(every.by_token(rows, first), rows.view(2, 2, 2, 3, 2)[:, :, 1])
    turned = ShownLayout(raw=(2, 2, 3, 2), order=(0, 2, 1, 3))
    part = ActivationPart(hook="blocks.0.attn.hook_rot_q", position=1, head=0)
    assert torch.equal(part.of(rows, turned), rows.view(2, 2, 2, 3, 2)[:, :, 0, 1])
    pairs = ActivationPart(hook="blocks.0.attn.hook_pattern", position=0, head=1)
    assert torch.equal(pairs.of(rows, ShownLayout(raw=(2, 3, 2, 2))), rows.view(2, 2, 3, 2, 2)[:, :, 1, 0])


class Converting:
    """A hook point whose conversion is a function."""

    def __init__(self, convert):
        self.hook_conversion = self
        self.convert = convert


def test_what_a_conversion_does_is_seen_on_numbers():
    """Nothing, a split, another order; anything else is refused."""
    raw = (2, 3, 4)
    assert shown_layout("h", object(), raw) == ShownLayout(raw=raw)
    assert shown_layout("h", Converting(lambda x: x), raw) == ShownLayout(raw=raw)
    assert shown_layout("h", Converting(lambda x: x.view(2, 3, 2, 2)), raw) == ShownLayout(raw=raw, tail=(2, 2))
    assert shown_layout("h", Converting(lambda x: x.mT), raw) == ShownLayout(raw=raw, order=(0, 2, 1))
    with pytest.raises(
        ValueError, match=r"'h': TransformerLens shows hooks a tensor of shape \(2, 3, 4\) for one of sha"
    ):
        shown_layout("h", Converting(lambda x: 2 * x), raw)
    with pytest.raises(ValueError, match="cannot be made of one of shape .* alone"):
        shown_layout("h", Converting(lambda x: x[None].view(7)), raw)


@pytest.mark.parametrize(
    ("part", "shape", "match"),
    [
        ({"position": 3}, (2, 3, 4), r"position=3 at 'h' is out of range: expected -3 to 2"),
        ({"head": 0}, (2, 3, 4), r"head=0 at 'h': the activation has shape \(2, 3, 4\), which has no axis of heads"),
        ({"position": 0}, (6, 4), "position=0 at 'h': .* no axis of positions"),
        ({"head": 2}, (2, 3, 2, 2), "head=2 at 'h' is out of range: expected -2 to 1"),
    ],
)
def test_parts_that_are_none_are_refused(part, shape, match):
    with pytest.raises(ValueError, match=match):
        ActivationPart(hook="h", **part).numel(ShownLayout(raw=shape))


def test_directions_need_positions_to_be_added_at():
    with pytest.raises(ValueError, match=r"directions at 'h': the activation has shape \(6, 4\)"):
        ActivationPart(hook="h").tokens(ShownLayout(raw=(6, 4)))
    with pytest.raises(ValueError, match="directions at 'blocks.0.attn.hook_pattern'"):
        ActivationPart(hook="blocks.0.attn.hook_pattern").tokens(ShownLayout(raw=(2, 3, 4, 4)))


def test_directions_are_read_from_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = str(tmp_path / "d.safetensors")
    save_file({"features": torch.eye(3)}, path)
    assert torch.equal(read_directions(path), torch.eye(3))
    save_file({"directions": torch.ones(1, 3), "other": torch.eye(3)}, path)
    assert torch.equal(read_directions(path), torch.ones(1, 3))
    save_file({"a": torch.ones(1, 3), "b": torch.eye(3)}, path)
    with pytest.raises(ValueError, match="holds a, b: expected one tensor, or 'directions'"):
        read_directions(path)
    with pytest.raises(ValueError, match="no such file"):
        read_directions(str(tmp_path / "gone"))
