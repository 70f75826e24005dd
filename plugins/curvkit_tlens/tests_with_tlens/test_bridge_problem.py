"""The problem tlens/bridge and the examples, in Python and as run files in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from curvkit_core import GGNOperator, Problem
from curvkit_tlens import NextTokenLoss, match_components
from curvkit_tlens.config import BridgeConfig
from curvkit_tlens.problem import build

ROOT = Path(__file__).parents[3]
WORDS = " ".join(f"w{(7 * i) % 29}" for i in range(40))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(WORDS)
    (tmp_path / "text" / "b.txt").write_text("w1 w2 w3")
    return str(tmp_path / "text")


def child(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=kept | {"OMP_NUM_THREADS": "1"}
    )


def test_a_folder_and_text_are_the_problem_made_by_hand(folders: Any, boot: Any, text: str) -> None:
    """Texts end to end with the tokenizer's end of text between them, whole sequences, the batches' size no matter."""
    made = build(BridgeConfig(model=str(folders["gpt2"]), text=text, sequence_length=8, batch_size=3, dtype="float64"))
    ids = [(7 * i) % 29 for i in range(40)] + [29, 1, 2, 3, 29]
    tokens = torch.tensor(ids[:40]).view(5, 8)
    assert torch.equal(torch.cat(list(made.batches)), tokens)
    by_hand = Problem(boot("gpt2"), [tokens], NextTokenLoss())
    v = made.space.random("gaussian", 0, 0, 1)[0]
    found, expected = GGNOperator(made) @ v, GGNOperator(by_hand) @ v
    assert (found - expected).norm() <= 1e-11 * expected.norm()
    assert "2 layers of 2 heads, on 5 sequences of 8 tokens" in made.description


def test_components_heads_and_folding_are_options(folders: Any, text: str) -> None:
    common = {"model": str(folders["llama"]), "text": text, "sequence_length": 8, "sequences": 2}
    state = torch.get_rng_state()
    part = build(BridgeConfig(**common, components=("blocks.1",), heads=(0,)))
    assert torch.equal(torch.get_rng_state(), state)
    assert part.parameters.n == part.restrict(match_components("blocks.1.attn", heads=[0])).parameters.n == 4 * 16
    assert build(BridgeConfig(**common, heads=(0,))).parameters.n == 2 * 4 * 16
    folded = build(BridgeConfig(**common, compatibility_mode=True))
    assert folded.model.compatibility_mode
    assert (GGNOperator(folded) @ torch.ones(folded.parameters.n)).isfinite().all()


def test_a_native_network_reads_bytes(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("curvature, é")
    native = {"n_layers": 1, "d_model": 8, "n_ctx": 8, "d_head": 4, "n_heads": 2, "d_vocab": 256, "act_fn": "gelu"}
    made = build(BridgeConfig(native=native, text=str(tmp_path / "t.txt"), sequence_length=4))
    assert torch.cat(list(made.batches)).flatten().tolist() == list("curvature, é".encode())[:12]
    again = build(BridgeConfig(native=native, text=str(tmp_path / "t.txt"), sequence_length=4))
    v = torch.ones(made.parameters.n)
    assert torch.equal(GGNOperator(made) @ v, GGNOperator(again) @ v)
    other = build(BridgeConfig(native=native, text=str(tmp_path / "t.txt"), sequence_length=4, seed=1))
    assert not torch.equal(GGNOperator(made) @ v, GGNOperator(other) @ v)


def test_bad_options_are_refused_with_the_mend(folders: Any, text: str, tmp_path: Path) -> None:
    model = str(folders["gpt2"])
    with pytest.raises(ValueError, match="model and native: neither is given. Expected one"):
        BridgeConfig(text=text)
    with pytest.raises(ValueError, match="model and native: both is given"):
        BridgeConfig(text=text, model=model, native={"n_layers": 1})
    with pytest.raises(ValueError, match="sequence_length=17 is longer than the model's context: expected at most 16"):
        build(BridgeConfig(model=model, text=text, sequence_length=17))
    with pytest.raises(ValueError, match="model='./nowhere': no such folder"):
        build(BridgeConfig(model="./nowhere", text=text))
    with pytest.raises(ValueError, match="the folder has no config.json"):
        build(BridgeConfig(model=text, text=text))
    with pytest.raises(ValueError, match="no such file or folder"):
        build(BridgeConfig(model=model, text=str(tmp_path / "gone"), sequence_length=8))
    native = {"n_layers": 1, "d_model": 8, "n_ctx": 8, "d_head": 4, "n_heads": 2, "d_vocab": 20, "act_fn": "gelu"}
    with pytest.raises(ValueError, match="native.d_vocab=20: without a tokenizer text is read as bytes"):
        build(BridgeConfig(native=native, text=text, sequence_length=4))
    with pytest.raises(ValueError, match="'act_fun'. Expected fields of transformer_lens's TransformerBridgeConfig"):
        build(BridgeConfig(native=native | {"act_fun": "gelu"}, text=text, sequence_length=4))


def test_a_run_file_computes_heads_and_hook_points(folders: Any, text: str, tmp_path: Path) -> None:
    """`curvkit run`, and exit code 2 without a traceback where a name is wrong."""
    run_file = tmp_path / "run.toml"
    run_file.write_text(
        f"""
        schema = 1
        [problem]
        kind = "tlens/bridge"
        model = "{folders["gpt2"]}"
        text = "{text}"
        sequence_length = 8
        dtype = "float64"
        [[operator]]
        kind = "tlens/component"
        components = ["blocks.0.attn"]
        heads = [1]
        [[operator]]
        kind = "tlens/hook-point"
        hook = "blocks.0.hook_resid_post"
        of = "ggn"
        position = 2
        [[algorithm]]
        kind = "core/eigsh"
        k = 2
        seed = 0
        """
    )
    done = child("-m", "curvkit_core", "run", str(run_file), "--out", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "out" / "result.json").read_text())["runs"]
    problem = build(BridgeConfig(model=str(folders["gpt2"]), text=text, sequence_length=8, dtype="float64"))
    part = problem.restrict(match_components("blocks.0.attn", heads=[1]))
    expected = torch.linalg.eigvalsh(GGNOperator(part).to_dense()).flip(0)[:2]
    found = torch.tensor(runs[0]["result"]["eigenvalues"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    run_file.write_text(run_file.read_text().replace("hook_resid_post", "hook_resid_psot"))
    done = child("-m", "curvkit_core", "run", str(run_file), "--out", "other", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Near names: blocks.0.hook_resid_post" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "other").exists()


def test_the_example_draws_a_map_of_heads(tmp_path: Path) -> None:
    """The script as a user runs it, on a network that is hardly trained; its numbers are those of the run file."""
    done = child(str(ROOT / "examples" / "tlens_heads.py"), "--steps", "3", "--out", "heads.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    (first,) = [line.split() for line in done.stdout.splitlines() if line.startswith("  layer 0")][:1]
    arguments = ["run", "examples/tlens_heads.toml", "--set", "problem.options.steps=3", "--out", str(tmp_path / "out")]
    done = child("-m", "curvkit_core", *arguments, folder=ROOT)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "out" / "result.json").read_text())["runs"]
    traces = [run["result"]["estimate"] for run in runs if "trace" in run["algorithm"]]
    assert f"{traces[0]:9.4g}".strip() == first[2]
    assert f"{traces[1]:9.4g}".strip() == first[3]
