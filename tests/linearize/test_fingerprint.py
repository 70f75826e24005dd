"""The content hash: any change and any permutation of bytes moves it, the same bytes never do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvkit_core.linearize.fingerprint import content_hash, fingerprint_of_batch, fingerprint_of_model

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@given(size=st.integers(1, 5000), place=st.integers(0, 10**6), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_changed_element_moves_the_hash(dtype: torch.dtype, size: int, place: int, seed: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed)).mul(50).to(dtype)
    y = x.clone()
    place %= size
    y[place] = ~y[place] if dtype is torch.bool else y[place] + 1
    assert (content_hash(x) == content_hash(y)) == torch.equal(x, y)
    assert content_hash(x) == content_hash(x.clone())


@given(size=st.integers(2, 5000), i=st.integers(0, 10**6), j=st.integers(0, 10**6), seed=st.integers(0, 2**31))
def test_two_swapped_elements_move_the_hash(size: int, i: int, j: int, seed: int) -> None:
    """Where sums and xors over all elements stay: torch.hash_tensor is the control."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    y = x.clone()
    y[[i % size, j % size]] = x[[j % size, i % size]]
    assert (content_hash(x) == content_hash(y)) == torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_flipped_signs_move_the_hash(dtype: torch.dtype) -> None:
    """A sign is a word's top bit, which an odd weight leaves alone: without mixing, two flips would cancel."""
    for seed in range(50):
        x = torch.randn(64, generator=torch.Generator().manual_seed(seed)).to(dtype)
        for flips in (2, 4, 64):
            y = x.clone()
            y[:flips] *= -1
            assert content_hash(y) != content_hash(x)


def test_sparse_batches_are_hashed_by_their_parts() -> None:
    x = torch.eye(4).to_sparse()
    assert fingerprint_of_batch(x) == fingerprint_of_batch(torch.eye(4).to_sparse())
    assert fingerprint_of_batch(x) != fingerprint_of_batch((2 * torch.eye(4)).to_sparse())
    assert fingerprint_of_batch(x) != fingerprint_of_batch(torch.eye(4).flip(0).to_sparse())


def test_every_permutation_of_rows_is_another_hash() -> None:
    """A million elements reversed, transposed, and rolled by a row of the hash's own layout."""
    x = torch.arange(2**20, dtype=torch.float32)
    others = [x.flip(0), x.view(1024, 1024).T.reshape(-1), x.roll(2048), x.roll(1)]
    hashes = {int(content_hash(t)) for t in [x, *others]}
    assert len(hashes) == 5


def test_layout_does_not_count_for_batches_but_contents_do() -> None:
    x = torch.arange(12.0).view(3, 4)
    same = torch.arange(12.0).view(4, 3).T.contiguous().T.reshape(3, 4)
    assert torch.equal(x, same)
    assert fingerprint_of_batch({"a": x, "b": [x]}) == fingerprint_of_batch({"a": same, "b": [same]})
    assert fingerprint_of_batch((x, x)) != fingerprint_of_batch((x, x + 1))
    assert fingerprint_of_batch((x,)) != fingerprint_of_batch((x.view(4, 3),))
    assert fingerprint_of_batch((x,)) != fingerprint_of_batch((x.to(torch.int64),))
    assert fingerprint_of_batch((torch.empty(0),)) == fingerprint_of_batch((torch.empty(0),))


def test_one_element_of_any_stride_has_a_hash() -> None:
    """A tensor of one element counts as contiguous whatever its stride: its hash is that of the number."""
    odd = torch.arange(44.0, dtype=torch.float64)[3::22][:1]
    assert odd.stride() == (22,) and odd.is_contiguous()
    assert int(content_hash(odd)) == int(content_hash(torch.tensor([3.0], dtype=torch.float64)))
    assert int(content_hash(odd)) != int(content_hash(torch.tensor([4.0], dtype=torch.float64)))


def test_hooks_count_as_what_a_forward_reads() -> None:
    """One that is added, one that takes another's place, and one on the way in; without it all is as before."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())

    def hook(*arguments: object) -> None:
        """Anything."""

    bare = fingerprint_of_model(model, None)
    handle = model[0].register_forward_hook(hook)
    hooked = fingerprint_of_model(model, None)
    handle.remove()
    assert hooked != bare == fingerprint_of_model(model, None)
    with model[0].register_forward_hook(hook):
        assert fingerprint_of_model(model, None) not in (bare, hooked)
    with model[0].register_forward_pre_hook(hook):
        assert fingerprint_of_model(model, None) != bare


def test_small_tensors_are_hashed_together_and_each_still_counts() -> None:
    """Many small tensors are one row of words: a change in any, a swap of two, and one beside a large, all move it."""
    torch.manual_seed(0)
    found = [torch.randn(size) for size in (3, 1, 700, 8192, 40_000, 5)]
    seen = fingerprint_of_batch(found)
    assert len(seen.hashes) == 2  # the small ones', and that of 20,000 words
    assert fingerprint_of_batch([t.clone() for t in found]) == seen
    for place in range(len(found)):
        changed = [t.clone() for t in found]
        changed[place][-1] += 1
        assert fingerprint_of_batch(changed) != seen
    twins = [torch.zeros(4), torch.ones(4)]
    assert fingerprint_of_batch(twins) != fingerprint_of_batch(twins[::-1])
    assert fingerprint_of_batch([torch.ones(3), torch.ones(5)]) != fingerprint_of_batch([torch.ones(5), torch.ones(3)])


def test_tensors_made_under_inference_mode_count_by_their_contents() -> None:
    """A buffer, or a plain tensor, whose writes torch does not count."""
    model = torch.nn.Linear(2, 2)
    with torch.inference_mode():
        model.register_buffer("table", torch.ones(3))
    seen = fingerprint_of_model(model, None)
    assert fingerprint_of_model(model, None) == seen
    with torch.inference_mode():
        model.table[0] = 2.0
    assert fingerprint_of_model(model, None) != seen
