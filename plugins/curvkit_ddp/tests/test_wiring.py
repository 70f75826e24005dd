"""The parts, without ranks: counts in a buffer, batches dealt out, cuts, launchers, one rank as none."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from cases import tied_mlp

from curvkit_core import HessianOperator, Problem
from curvkit_core.errors import CurvkitError, RankError
from curvkit_ddp import ReplicatedBackend
from curvkit_ddp.config import ReplicatedConfig
from curvkit_ddp.dealing import Dealt
from curvkit_ddp.flat_sums import DIGITS, packed, unpacked
from curvkit_ddp.launch import find_group
from curvkit_ddp.probes import launched
from curvkit_ddp.replicas import ValuesDigest
from curvkit_ddp.shards import Cut, cut_of

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


@pytest.fixture
def bare(monkeypatch) -> pytest.MonkeyPatch:
    """An environment without a launcher."""
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def alone(bare, tmp_path):
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_summed_exactly(dtype):
    """Sums over 4096 ranks of counts that a float32 cannot hold: exact, fractions to 2^-60."""
    numbers = (torch.tensor(20_000_001.0, dtype=torch.float64), torch.tensor([0.1, 0.0, 3.0], dtype=torch.float64))
    vectors = torch.arange(6, dtype=dtype).view(2, 3)
    buffer = packed(vectors, numbers)
    assert buffer.dtype == dtype and buffer.numel() == 6 + 4 * DIGITS
    total = torch.zeros_like(buffer)
    for _ in range(4096):
        total += buffer
    summed, count, rest = unpacked(total, vectors, numbers)
    assert torch.equal(summed, 4096 * vectors)
    assert float(count) == 4096 * 20_000_001.0
    assert rest.tolist() == pytest.approx([409.6, 0.0, 4096 * 3.0], rel=1e-14)
    # control: the same count as one number of the buffer's dtype
    plain = torch.zeros((), dtype=torch.float32)
    for _ in range(4096):
        plain += 20_000_001.0
    assert float(plain) != 4096 * 20_000_001.0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), 2.0**60])
def test_counts_that_are_none_are_refused(bad):
    """Negative, not a number, too large."""
    with pytest.raises(ValueError, match="cannot be summed over ranks: expected finite counts"):
        packed(torch.zeros(1, 2), (torch.tensor(bad, dtype=torch.float64),))


class Unsized:
    """Batches that do not say how many they are."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("kind", [list, lambda items: dict.fromkeys(items).keys(), Unsized])
def test_batches_are_dealt_in_neighbouring_runs(kind):
    """Rank by rank they are all batches in their order, whatever can be asked of them; and again."""
    for total, size in itertools.product((0, 1, 5, 8), (1, 2, 3, 7)):
        items = list(range(total))
        dealt = [Dealt(kind(items), rank=r, size=size) for r in range(size)]
        for _ in range(2):
            assert [b for d in dealt for b in d] == items
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_cut_is_that_of_torch_chunk():
    """Where a rank's part starts, as torch.chunk has it, empty parts included."""
    for rows, size in itertools.product(range(1, 9), range(1, 6)):
        cut = Cut(shape=torch.Size((rows, 3)), size=size)
        chunks = torch.arange(rows * 3).view(rows, 3).chunk(size)
        starts = [int(chunks[r].reshape(-1)[0]) if r < len(chunks) else rows * 3 for r in range(size)]
        assert [cut.start(r) for r in range(size)] == starts


def test_plain_parameter_is_no_shard():
    """With the mend."""
    with pytest.raises(ValueError, match=r"parameter 'w' is not sharded .* curvkit_ddp.shard\(model, mesh\)"):
        cut_of("w", torch.nn.Parameter(torch.zeros(2)))


def test_no_group_and_no_launcher_is_said(bare):
    """What is missing, and three ways out."""
    with pytest.raises(ValueError, match="no process group is initialised, and no launcher .* torchrun"):
        ReplicatedBackend()


def test_nccl_without_a_gpu_is_refused(bare):
    """Before anything waits for other ranks."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name, value in zip(LAUNCHER, ("0", "2", "127.0.0.1", "29511", "0"), strict=True):
        bare.setenv(name, value)
    with pytest.raises(ValueError, match="transport='nccl' needs a GPU"):
        find_group(transport="nccl")
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (False, "one process: torchrun starts several")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (False, "the launcher started one process only")),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (True, "")),
    ],
)
def test_auto_takes_it_under_a_launcher_only(bare, environ, expected):
    """The probe's answer and reason."""
    for name, value in environ.items():
        bare.setenv(name, value)
    assert launched() == expected


def test_one_rank_is_as_no_backend(alone):
    """World size 1: the same bits, and no collective."""
    case = tied_mlp()
    backend = ReplicatedBackend()
    problem = Problem(case.model, case.batches((3, 10)), case.loss, backend=backend)
    plain = Problem(case.model, case.batches((3, 10)), case.loss)
    v = plain.space.random("gaussian", 0, 0, 1)[0]
    assert torch.equal(HessianOperator(problem) @ v, HessianOperator(plain) @ v)
    assert type(problem.space) is type(plain.space)
    assert backend.shard(case.batches()) is not None and backend.share("x") == "x"
    backend.compare({"anything": "goes"})


def test_mesh_of_two_axes_is_refused(alone):
    """One axis holds the data; its name is told."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicate", "shard"))
    with pytest.raises(ValueError, match=r"2 axes, replicate, shard: expected one. .* mesh\['replicate'\]"):
        ReplicatedBackend(mesh)
    assert ReplicatedBackend(mesh["replicate"]).world.size == 1


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_timeout_is_positive(alone, timeout):
    """In Python and in a run file."""
    with pytest.raises(ValueError, match="timeout"):
        ReplicatedBackend(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        ReplicatedConfig(timeout=timeout)


def test_digest_follows_the_values():
    """The same values, the same digest; a changed one another; 36 bits."""
    model, twin = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    twin.load_state_dict(model.state_dict())
    digest = ValuesDigest()
    first = digest.of(model)
    assert ValuesDigest().of(twin) == first < 2**36
    with torch.no_grad():
        model.bias[0] += 1e-3
    assert digest.of(model) != first


def test_rank_error_is_curvkits():
    """The command line prints its text and ends with code 2."""
    assert issubclass(RankError, CurvkitError)
