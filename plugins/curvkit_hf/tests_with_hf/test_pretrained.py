"""The problem hf/pretrained: text and rows of every kind, models from folders and GGUF files, the CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_families import relative
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from curvkit_core import GGNOperator, Problem
from curvkit_core.config import ConfigError, structure
from curvkit_core.problem.remote_code import allow_remote_code, remote_code_allowed
from curvkit_hf import CausalLMLoss
from curvkit_hf.config import PretrainedConfig
from curvkit_hf.gguf_cache import dequantised_folder
from curvkit_hf.pretrained import build

WORDS = ["<pad>", "<end>", "<unk>", *"abcdefghij"]


def tokenizer_of(**special: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", **special)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer as save_pretrained writes them."""
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=8, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(place)
    tokenizer_of().save_pretrained(place)
    return place


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def config_of(folder: Path, text: Path | str, **options: Any) -> PretrainedConfig:
    return PretrainedConfig(**{"model": str(folder), "text": str(text), "sequence_length": 4, **options})


def test_documents_are_packed_into_rows_of_equal_length(folder: Path, tmp_path: Path) -> None:
    """Joined by the end token, cut wherever a row is full, a rest left out; sources in the order of their names."""
    (tmp_path / "b.txt").write_text("d e f g h")
    (tmp_path / "a.txt").write_text("a b c")
    (tmp_path / "c.jsonl").write_text('{"text": "i j"}\n\n{"text": "  "}\n{"text": "a"}\n')
    (tmp_path / "ignored.bin").write_bytes(b"\xff\xfe")
    problem = build(config_of(folder, tmp_path, batch_size=2))
    rows = torch.cat([batch["input_ids"] for batch in problem.batches]).tolist()
    stream = [*ids("a b c"), 1, *ids("d e f g h"), 1, *ids("i j"), 1, *ids("a"), 1]
    assert rows == [stream[i : i + 4] for i in range(0, 12, 4)]
    assert [len(batch["input_ids"]) for batch in problem.batches] == [2, 1]
    assert problem.num_units == 9
    assert "GPT2LMHeadModel" in problem.description
    assert "3 rows of 4 tokens" in problem.description


def test_a_json_field_and_a_budget(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps({"body": "a b c d e f g h i j"}) for _ in range(9)))
    problem = build(config_of(folder, file, text_field="body", max_tokens=10))
    assert [batch["input_ids"].shape for batch in problem.batches] == [(1, 4), (1, 4)]
    short = build(config_of(folder, file, text_field="body", max_tokens=3))
    assert [batch["input_ids"].tolist() for batch in short.batches] == [[ids("a b c")]]


def test_a_data_set_is_read_by_its_field(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of JSON lines is one for the package datasets; one that is not there is a message."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"body": "a b c"}\n{"body": "d e f g"}\n')
    problem = build(config_of(folder, f"datasets:{tmp_path / 'data'}", text_field="body"))
    assert [batch["input_ids"].tolist() for batch in problem.batches] == [[[*ids("a b c"), 1]], [ids("d e f g")]]
    with pytest.raises(ValueError, match=r"text_field='text': row 0 of .*data has the fields body, and no text there"):
        build(config_of(folder, f"datasets:{tmp_path / 'data'}"))
    with pytest.raises(ValueError, match=r"text='datasets:nobody/nothing' could not be loaded \("):
        build(config_of(folder, "datasets:nobody/nothing"))


def test_rows_are_drawn_from_all_over_by_the_seed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("a b c d e f g h i j " * 20)

    def rows(**options: Any) -> list[Any]:
        built = build(config_of(folder, file, max_tokens=20, **options))
        return [batch["input_ids"][0].tolist() for batch in built.batches]

    assert len(rows()) == 5
    assert rows(shuffle=True, seed=1) == rows(shuffle=True, seed=1) != rows(shuffle=True, seed=2)
    assert rows(shuffle=True, seed=1) != rows()


def test_a_document_a_row_is_padded_and_equals_its_rows_one_by_one(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in ("a b", "c d e f g h", "i j a", "b")))
    options = {"pack": False, "dtype": "float64", "pad_token": "<pad>"}
    padded = build(config_of(folder, file, batch_size=3, **options))
    (batch,) = padded.batches
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["input_ids"][0].tolist() == [*ids("a b"), 0, 0]
    alone = build(config_of(folder, file, batch_size=1, **options))
    v = padded.space.random("gaussian", 0, 0, 1)
    assert relative(GGNOperator(padded).apply(v), GGNOperator(alone).apply(v)) <= 1e-9


def test_a_tokenizer_without_a_pad_token_is_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "a b"}\n{"text": "c d e"}')
    with pytest.raises(
        ValueError, match=r"pad_token=None: .*has none.*2 to 3 tokens.*Set pad_token = '<end>', or pack"
    ):
        build(config_of(folder, file, pack=False, batch_size=2))
    with pytest.raises(ValueError, match="pad_token='<nil>' is no token of"):
        build(config_of(folder, file, pack=False, batch_size=2, pad_token="<nil>"))
    assert len(build(config_of(folder, file, pack=False)).batches) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_loaded_in_the_dtype_asked_for(folder: Path, tmp_path: Path, dtype: str) -> None:
    (tmp_path / "a.txt").write_text("a b c d e f g h")
    problem = build(config_of(folder, tmp_path / "a.txt", dtype=dtype, attention="eager", params=["*attn*"]))
    assert {p.dtype for p in problem.model.parameters()} == {getattr(torch, dtype)}
    assert problem.model.config._attn_implementation == "eager"
    assert all("attn" in name for name in problem.parameters.names)


def test_it_is_the_problem_one_would_write(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c d e f g h")
    problem = build(config_of(folder, tmp_path / "a.txt"))
    model = GPT2LMHeadModel.from_pretrained(folder)
    by_hand = Problem(
        model, [{"input_ids": torch.tensor([ids("a b c d")])}, torch.tensor([ids("e f g h")])], CausalLMLoss()
    )
    v = problem.space.random("gaussian", 0, 0, 1)
    assert torch.equal(GGNOperator(problem).apply(v), GGNOperator(by_hand).apply(v))


BAD = {
    "no such folder or file": ({"model": "./nowhere"}, r"model='./nowhere': no such file or folder, seen from"),
    "no hub": (
        {"model": "nobody/nothing"},
        "model='nobody/nothing': there is no such folder here, and .* neither from the hub",
    ),
    "no text": (
        {"text": "nowhere.txt"},
        "text='nowhere.txt': no such file or folder. A data set is written 'datasets:NAME'",
    ),
    "one word": ({"text": "one.txt"}, "one.txt' has no two tokens in a row"),
    "no JSON": ({"text": "bad.jsonl"}, r"bad.jsonl', line 2 is no JSON"),
    "no field": ({"text": "other.jsonl"}, r"text_field='text': .*other.jsonl, line 1 has the fields body, and no text"),
    "not UTF-8": ({"text": "latin.txt"}, r"latin.txt' is no UTF-8 text \(byte 1\)"),
    "too long": ({"sequence_length": 17}, "sequence_length=17: GPT2LMHeadModel's positions are made for 16"),
    "no device": ({"device": "gpu"}, "device='gpu' is unknown: expected 'cpu'"),
    "no CUDA": ({"device": "cuda:99"}, r"device='cuda:99': torch sees \d+ CUDA devices here"),
    "an empty folder": ({"model": "empty"}, r"the folder has no config.json \(it holds nothing\)"),
}


@pytest.mark.parametrize(("options", "match"), BAD.values(), ids=BAD)
def test_what_is_not_there_or_does_not_fit_is_one_message(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.txt").write_text("a b c d e f g h " * 4)
    Path("one.txt").write_text("a")
    Path("bad.jsonl").write_text('{"text": "a b c d"}\n{"text"')
    Path("other.jsonl").write_text('{"body": "a b c d"}')
    Path("latin.txt").write_bytes("aéb".encode("latin-1"))
    if options.get("text") == "one.txt":
        options = {**options, "pack": False}
    with pytest.raises(ValueError, match=match):
        build(PretrainedConfig(**{"model": str(folder), "text": "text.txt", "sequence_length": 4, **options}))


# Code of a model's own ----------------------------------------------------------------------------------------------

CODE = """
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    model_type = "own"


class OwnLM(GPT2LMHeadModel):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(folder: Path, tmp_path: Path) -> Path:
    """A model folder whose classes are in a file beside the weights."""
    place = tmp_path / "own"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnLM"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text(CODE)
    (tmp_path / "text.txt").write_text("a b c d e f g h")
    return place


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "CURVKIT_PLUGINS": "hf"}
    run = [sys.executable, "-m", "curvkit_core", "run", *arguments]
    return subprocess.run(run, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_a_models_own_code_runs_on_the_command_lines_word_alone(own_code: Path, tmp_path: Path) -> None:
    """A run file cannot say it; without the flag there is one message; with it the run is carried out."""
    file = tmp_path / "run.toml"
    lines = [
        "schema = 1",
        "[problem]",
        'kind = "hf/pretrained"',
        'model = "own"',
        'text = "text.txt"',
        "sequence_length = 4",
        "[[operator]]",
        'kind = "core/ggn"',
        "[[algorithm]]",
        'kind = "core/eigsh"',
        "k = 1",
        "seed = 0",
    ]
    file.write_text("\n".join(lines))
    refused = command("run.toml", folder=tmp_path)
    assert refused.returncode == 2
    assert "$.problem.model" in refused.stderr
    assert (
        "comes with code of its own. If you have read it and trust it: curvkit run --trust-remote-code"
        in refused.stderr
    )
    assert "Traceback" not in refused.stderr
    with pytest.raises(ConfigError, match="unknown key 'trust_remote_code'"):
        structure(PretrainedConfig, {"model": "own", "text": "text.txt", "trust_remote_code": True}, "$.problem")
    allowed = command("run.toml", "--trust-remote-code", "--no-plots", "--out", "out", folder=tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["runs"][0]["result"]["eigenvalues"][0] > 0.0


def test_the_permission_lasts_for_its_context() -> None:
    assert not remote_code_allowed()
    with pytest.raises(KeyError), allow_remote_code(True):
        assert remote_code_allowed()
        with allow_remote_code(False):
            assert not remote_code_allowed()
        raise KeyError
    assert not remote_code_allowed()


# GGUF ---------------------------------------------------------------------------------------------------------------


def write_gguf(file: Path) -> None:
    """A Llama of one layer in float32, with a byte-pair tokenizer of single letters."""
    from gguf import GGUFWriter

    generator = torch.Generator().manual_seed(3)
    letters = [*"abcdefghi", "ab", "<s>", "</s>"]
    writer = GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([1] * 10 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(10)
    writer.add_eos_token_id(11)
    shapes = {"token_embd": (12, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    shapes |= {f"blk.0.attn_{name}": (8, 8) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (12, 8), "blk.0.ffn_up": (12, 8), "blk.0.ffn_down": (8, 12)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_dequantised_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = tmp_path / "tiny.gguf", tmp_path / "cache"
    write_gguf(file)
    (tmp_path / "text.txt").write_text("a b c d e f g h i j")
    config = PretrainedConfig(model=str(file), text=str(tmp_path / "text.txt"), sequence_length=4, cache=str(cache))
    first = build(config)
    (kept,) = cache.iterdir()
    assert {entry.name for entry in kept.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}

    import curvkit_hf.gguf_cache as module

    monkeypatch.setattr(module, "AutoModelForCausalLM", None)  # a second dequantising would fail
    second = build(config)
    v = first.space.random("gaussian", 0, 0, 1)
    assert torch.equal(GGNOperator(first).apply(v), GGNOperator(second).apply(v))
    embedding = dict(first.model.named_parameters())["model.embed_tokens.weight"]
    expected = torch.randn((12, 8), generator=torch.Generator().manual_seed(3))
    assert torch.equal(embedding.detach(), expected)


def test_a_broken_gguf_file_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="broken.gguf' cannot be read as a GGUF model"):
        dequantised_folder(file, str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
