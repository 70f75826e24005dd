"""A rank that raises, hangs or is killed ends the run on all ranks, with its own error and in time."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch


def seen(folder: Path, ranks: list[int]) -> list[dict]:
    """What these ranks wrote down."""
    from recorded import Recorded

    return [Recorded.load(folder, rank).facts for rank in ranks]


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_killed_rank_ends_the_others(ranks, tmp_path, kind):
    """SIGKILL of rank 2 of 4 in a product: within 20 seconds the others stop, and name it."""
    done = ranks("failures", 4, tmp_path, kind, "kill", "2", "60")
    assert done["codes"] == [3, 3, -signal.SIGKILL, 3]
    for rank, facts in zip((0, 1, 3), seen(tmp_path, [0, 1, 3]), strict=True):
        assert facts["seen"].startswith(f"RankError: rank {rank} of 4: "), facts["seen"]
        assert "rank 2 did not answer: killed" in facts["seen"]
        assert "out of step" in facts["again"]  # no product is made of what is left
    # far below the timeout: connections that break are noticed at once, and the roll call takes 3 seconds
    assert max(done["seconds"][r] for r in (0, 1, 3)) - done["seconds"][2] <= 20.0


def test_hanging_rank_is_named_after_the_timeout(ranks, tmp_path):
    """A rank that sleeps in its loader: the other waits for its 2 seconds and the roll call's 3, and names it."""
    done = ranks("failures", 2, tmp_path, "replicated", "hang", "1", "2")
    assert done["codes"] == [3, 7]  # the sleeper woke up after the other had gone
    (facts,) = seen(tmp_path, [0])
    assert "a sum did not end within timeout=2 seconds: rank 1 did not answer" in facts["seen"]


def test_rank_that_raises_in_a_sharded_pass_is_heard(ranks, tmp_path):
    """The others wait inside a forward, which the failing rank cannot join: they hear of it all the same, at once."""
    done = ranks("failures", 2, tmp_path, "sharded", "raise", "1", "60")
    assert done["codes"] == [3, 3]
    other, own = seen(tmp_path, [0, 1])
    assert own["seen"] == "OSError: no such file: part-7"
    assert (
        other["seen"].startswith("RankError: rank 0 of 2: ")
        and "rank 1: OSError: no such file: part-7" in other["seen"]
    )
    assert other["seen at"] - own["failed at"] <= 5.0
    for facts in (own, other):
        assert "this process group is out of step" in facts["again"]


def test_interrupted_rank_stops_all_with_their_results(ranks, tmp_path):
    """Ctrl-C reaches rank 1 in a product: both ranks end their eigensolve there, with what two products have given."""
    done = ranks("failures", 2, tmp_path, "replicated", "interrupt", "1", "60")
    assert done["codes"] == [3, 3]
    for facts in seen(tmp_path, [0, 1]):
        assert facts["seen"] == ""
        assert facts["stopped"] == ["keyboard", 2]
        assert facts["again"] == ""  # in step


@pytest.fixture(scope="module", params=["replicated", "sharded, in a save"])
def left_behind(ranks, tmp_path_factory, request) -> tuple[str, Path, int]:
    """A checkpoint of 4 ranks, the third of which was killed: their kind, the folder, the products in it.

    In a product of a sharded run one is killed by the tests of run files.
    """
    folder = tmp_path_factory.mktemp("killed")
    kind, _, when = request.param.partition(", in a ")
    options = ["saving"] if when else []
    done = ranks("resumed", 4, folder, kind, str(folder / "checkpoint"), "2", *options)
    assert done["codes"][2] == -signal.SIGKILL
    assert all(code == 1 for rank, code in enumerate(done["codes"]) if rank != 2)
    for rank in (0, 1, 3):
        assert "rank 2 did not answer: killed" in (folder / f"rank-{rank}.log").read_text()
    saved = json.loads(max((folder / "checkpoint").glob("checkpoint-*.json")).read_text())["matvecs"]
    assert 3 <= saved <= 8
    assert any(f.name.endswith(".tmp") for f in (folder / "checkpoint").iterdir()) == bool(when)
    return kind, folder / "checkpoint", saved


@pytest.fixture(scope="module")
def undisturbed():
    """What one process finds."""
    import resumed

    return resumed.solved(one_process(), None)


def one_process():
    """Its problem."""
    import resumed

    from curvkit_core import MSELoss, Problem

    return Problem(resumed.counted_model(), resumed.data(), MSELoss(), preflight="off")


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_killed_run_goes_on_with_other_ranks(ranks, tmp_path, left_behind, undisturbed, kind):
    """2 ranks, of the same kind or the other, go on from its checkpoint, and find what one process finds undisturbed.

    On shards no vector is gathered, neither in a save nor in a load of parts. Before that a model is refused by both
    ranks, one of whose weights is off by 1e-9.
    """
    _, checkpoint, saved = left_behind
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    done = ranks("resumed", 2, tmp_path, kind, str(tmp_path / "checkpoint"), "-1", "changed")
    assert done["codes"] == [0, 0], "\n".join((tmp_path / f"rank-{r}.log").read_text() for r in range(2))
    from recorded import Recorded

    for rank in range(2):
        found = Recorded.load(tmp_path, rank)
        what = "The rank that writes says what differs" if rank else "operator.problem.values: "
        assert found.facts["refused"].startswith("CheckpointError: ")
        assert (
            f"is of another run. {what}" in found.facts["refused"]
            and "; " not in found.facts["refused"].split("Pass")[0]
        )
        assert found.facts["converged"] == [True, True]
        assert found.facts["matvecs"] == undisturbed.num_matvecs > saved  # it did go on, and not begin anew
        assert any("ranks: 4 there, 2 here" in note for note in found.facts["findings"])
        assert found.facts["gathered"] == 0
        torch.testing.assert_close(found.tensors["values"], undisturbed.eigenvalues, rtol=1e-9, atol=0.0)
    names = {f.name for f in (tmp_path / "checkpoint").iterdir()}
    assert not any(name.endswith(".tmp") for name in names)
    assert len([name for name in names if name.startswith("checkpoint-")]) == 2


def test_killed_run_goes_on_in_one_process(tmp_path, left_behind, undisturbed):
    """With no process group, from whole rows or from the shards' parts."""
    import resumed

    _, checkpoint, saved = left_behind
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    eig = resumed.solved(one_process(), tmp_path / "checkpoint")
    assert eig.num_matvecs == undisturbed.num_matvecs > saved
    assert any("ranks: 4 there, 1 here" in note for note in eig.info.findings)
    torch.testing.assert_close(eig.eigenvalues, undisturbed.eigenvalues, rtol=1e-9, atol=0.0)
