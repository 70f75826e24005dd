"""Counter-based random vectors: functions of (seed, index, parameter, element), and of nothing else."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvkit_core.backends import Segment, VectorSpace


def space(*sizes: int, start: int = 0, dtype: torch.dtype = torch.float64) -> VectorSpace:
    return VectorSpace([Segment(name=f"p{i}", numel=n, start=start) for i, n in enumerate(sizes)], dtype=dtype)


@given(total=st.integers(1, 400), low=st.integers(0, 399), high=st.integers(0, 400))
@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_a_shard_draws_its_part_of_the_whole(kind: str, total: int, low: int, high: int) -> None:
    """Elements low..high of a parameter are bit-equal whether drawn alone or with the rest."""
    low, high = sorted((min(low, total), min(high, total)))
    whole = space(total).random(kind, 7, 3, 2)
    part = space(high - low, start=low).random(kind, 7, 3, 2)
    assert torch.equal(whole[:, low:high], part)


def test_vectors_depend_on_seed_index_and_name_alone() -> None:
    """Rows drawn together or one by one, in any dtype, are the same; another seed, index or name is another vector."""
    both = space(100, 50).random("rademacher", 1, 5, 2)
    assert torch.equal(both[1], space(100, 50).random("rademacher", 1, 6, 1)[0])
    assert torch.equal(both, space(100, 50, dtype=torch.float32).random("rademacher", 1, 5, 2).double())
    assert not torch.equal(both, space(100, 50).random("rademacher", 2, 5, 2))
    swapped = VectorSpace([Segment(name="p1", numel=50), Segment(name="p0", numel=100)], dtype=torch.float64)
    other = swapped.random("rademacher", 1, 5, 2)
    assert torch.equal(torch.cat([other[:, 50:], other[:, :50]], dim=1), both)


def test_the_stream_is_frozen() -> None:
    """A stored run must mean the same vectors in every later version: the bits of one stream, by their hash."""
    z = space(1000, 37).random("rademacher", 12345, 6, 3)
    digest = hashlib.sha256((z > 0).to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest == "a14efb76d2b5ccacfb8d8ecaaeb98be8240899f45354645409a354669a545f5c"


def test_signs_are_fair_and_uncorrelated() -> None:
    """Mean, correlation of neighbours, of rows and of parameters: all within 4.5 standard errors of 0."""
    z = space(100_000, 100_000).random("rademacher", 0, 0, 2)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    bound = 4.5 / 100_000**0.5
    assert z.mean(1).abs().max() < bound
    assert abs((z[0, 1:] * z[0, :-1]).mean()) < bound
    assert abs((z[0] * z[1]).mean()) < bound
    assert abs((z[0, :100_000] * z[0, 100_000:]).mean()) < bound


def test_gaussians_have_the_normal_moments() -> None:
    """Moments 1 to 4 within 4.5 standard errors, and the share beyond 2."""
    z = space(1_000_000).random("gaussian", 0, 0, 1)[0]
    n = len(z)
    for power, mean, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((z**power).mean()) - mean) < 4.5 * (variance / n) ** 0.5
    share = 0.0455003
    assert abs(float((z.abs() > 2).double().mean()) - share) < 4.5 * (share / n) ** 0.5


def test_sphere_probes_have_norm_sqrt_n() -> None:
    z = space(50, 14).random("sphere", 0, 0, 3)
    assert torch.allclose(z.norm(dim=1), torch.full((3,), 8.0, dtype=torch.float64), rtol=1e-14)


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cauchy' is unknown: expected one of rademacher, gaussian, sphere"):
        space(3).random("cauchy", 0, 0, 1)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    state = torch.get_rng_state()
    first = space(10).random("gaussian", 0, 0, 1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, space(10).random("gaussian", 0, 0, 1))
