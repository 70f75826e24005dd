"""Vectors of a sharded space on disk: each rank its part, by torch.distributed.checkpoint, for any number of ranks."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from cases import tied_mlp
from packaging.version import Version
from torch import Tensor

from curvkit_core import Problem
from curvkit_core.results.row_parts import DamagedPartError, read_parts


def facts_of(folder: Path, size: int, name: str) -> list:
    """What each rank recorded."""
    from recorded import Recorded

    return [Recorded.load(folder, rank).facts[name] for rank in range(size)]


def launched(ranks, size: int, folder: Path, *steps: str) -> None:
    """Start the program, and expect it to end well."""
    done = ranks("saved_rows", size, folder, *steps)
    assert done["codes"] == [0] * size, "\n".join((folder / f"rank-{r}.log").read_text() for r in range(size))


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory) -> Path:
    """What four ranks have written; some have nothing of some parameters."""
    folder = tmp_path_factory.mktemp("written")
    launched(ranks, 4, folder, "write")
    return folder


@pytest.fixture(scope="module")
def problem() -> Problem:
    """The same one, whole."""
    case = tied_mlp()
    return Problem(case.model, case.batches(), case.loss, preflight="off")


def expected(problem: Problem) -> dict[str, Tensor]:
    """The rows that were written, by one process."""
    space = problem.space
    return {"vectors": space.random("gaussian", 5, 0, 3), "vector": space.random("gaussian", 5, 3, 1)[0]}


def test_each_rank_writes_its_part(written, problem):
    """Bytes of tensors: a rank's are those of its part, four times eight bytes an element in all."""
    from safetensors.torch import load_file

    facts = json.loads((written / "parts.json").read_text())
    assert facts_of(written, 4, "told") == [True, False, False, False]
    held = [sum(t.numel() for t in load_file(written / "parts" / name).values()) for name in sorted(facts)]
    assert sum(held) == 4 * problem.space.n
    # parameters of 3 or 4 entries on 4 ranks leave the last with less
    assert max(held) <= 2 * sum(held) / 4
    assert all((written / "parts" / name).stat().st_size == known["bytes"] for name, known in facts.items())


def test_one_process_reads_them(written, problem):
    """With no process group: the bits that one process would have drawn."""
    facts = json.loads((written / "parts.json").read_text())
    for name, rows in expected(problem).items():
        assert torch.equal(read_parts(written / "parts", name, facts, problem.space.layout), rows)
    assert read_parts(written / "parts", "none", facts, problem.space.layout).shape == (0, problem.space.n)
    with pytest.raises(DamagedPartError, match="0 elements of 'others', expected"):
        read_parts(written / "parts", "others", facts, problem.space.layout)


def test_torch_reads_them_too(written, problem):
    """Another path: torch's own reader of safetensors finds each parameter's rows whole."""
    reader = pytest.importorskip("torch.distributed.checkpoint.hf_storage", reason="torch 2.13 has the reader")
    whole = expected(problem)["vectors"]
    named = problem.parameters.to_named(whole)
    found = {f"vectors/{n}": torch.zeros(3, t.shape[1], t.shape[2:].numel(), dtype=t.dtype) for n, t in named.items()}
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        dcp.load(found, storage_reader=reader.HuggingFaceStorageReader(str(written / "parts")))
    for name, tensor in named.items():
        assert torch.equal(found[f"vectors/{name}"].view(tensor.shape), tensor), name


def test_two_ranks_read_them(ranks, written, tmp_path):
    """The bits of their own parts; a changed byte is told by both."""
    folder = tmp_path / "there"
    shutil.copytree(written, folder)
    shutil.copytree(folder / "parts", folder / "spoilt")
    victim = folder / "spoilt" / "part-00001.safetensors"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1  # in the last tensor, which is "vectors"
    victim.write_bytes(content)
    launched(ranks, 2, folder, "read")
    bit_equal(folder, 2, "")
    text = "DamagedPartError: part-00001.safetensors: the bytes of 'vectors' are not those that were written"
    assert facts_of(folder, 2, "spoilt") == [text] * 2


def bit_equal(folder: Path, size: int, key: str) -> None:
    """What the ranks say of what they have read."""
    for name in ("vectors", "vector", "none"):
        assert facts_of(folder, size, f"{key}{name} bit-equal") == [True] * size, name
    assert facts_of(folder, size, f"{key}control") == [False] * size
    assert facts_of(folder, size, f"{key}unknown") == ["DamagedPartError: parts has no rows 'others'"] * size


def test_replicas_write_once(written, problem):
    """Two replicas of two shards: the first one's parts, and all of them; both read what four shards have written."""
    facts = json.loads((written / "replicas.json").read_text())
    assert sorted(facts) == ["part-00000.safetensors", "part-00001.safetensors"]
    for name, rows in expected(problem).items():
        assert torch.equal(read_parts(written / "replicas", name, facts, problem.space.layout), rows)
    bit_equal(written, 4, "replicas/")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_rank_0_needs_no_whole_rows_to_save(written):
    """Beside its part of the rows a copy of it, and so every other rank; gathered, all of them are four times that.

    Before safetensors 0.8, which writes tensors from where they lie, another copy.

    In a result as well; to read one takes a part, and a file to check beside it.
    """
    parts, whole = facts_of(written, 4, "peak/parts"), facts_of(written, 4, "peak/whole")
    copies = 1 if Version(metadata.version("safetensors")) >= Version("0.8") else 2
    assert copies - 0.5 <= max(parts) <= copies + 0.5
    assert whole[0] >= 4.0  # control
    assert copies - 0.5 <= max(facts_of(written, 4, "peak/result")) <= copies + 0.5
    assert 0.5 <= max(facts_of(written, 4, "peak/read")) <= 2.5
    # control; of rank 0 less may be seen, which has memory left over from the gathering
    assert min(facts_of(written, 4, "peak/read whole")[1:]) >= 4.0


def test_rank_that_cannot_write_is_named(written):
    """Its own error there, its number on the others; and they are in step afterwards."""
    messages = facts_of(written, 4, "disk is full")
    assert messages[1] == "OSError: [Errno 28] No space left on device"
    for rank in (0, 2, 3):
        text = "stopped, since a save of vectors failed on rank 1: OSError: [Errno 28] No space left on device"
        assert messages[rank] == f"RankError: rank {rank} {text}"
    assert facts_of(written, 4, "afterwards") == [""] * 4
