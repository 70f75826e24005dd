"""Curvature in a trainer's log, and training that does not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_families import VOCABULARY, batch_for
from torch import nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from curvkit_core import HessianOperator, Problem, eigsh, trace
from curvkit_hf import CausalLMLoss, CurvatureCallback

PROBES = [batch_for("CausalLMLoss")]
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")


class Rows(Dataset):
    """Twelve rows of tokens."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(3, VOCABULARY, (6,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


class Recorder(TrainerCallback):
    """A logger of the trainer's: what it is told, and the weights' bytes after each step."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.weights: list[torch.Tensor] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights.append(torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]))


def trained(folder: Any, *callbacks: TrainerCallback, steps: int = 6) -> tuple[Trainer, Recorder]:
    """Train a GPT-2 with dropout, whose random numbers a careless callback would move."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0.3)
    recorder = Recorder()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        logging_steps=2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config), args=arguments, train_dataset=Rows(), callbacks=[recorder, *callbacks]
    )
    trainer.train()
    return trainer, recorder


def test_training_is_the_same_bit_for_bit(tmp_path: Any) -> None:
    """Weights after every step, losses in the log; and it is a check that would see a difference."""
    _, without = trained(tmp_path / "a")
    callback = CurvatureCallback(PROBES, every=2, k=2)
    _, with_it = trained(tmp_path / "b", callback)
    assert len(callback.rows) == 3
    assert all(torch.equal(a, b) for a, b in zip(without.weights, with_it.weights, strict=True))
    losses = [[row["loss"] for row in r.logs if "loss" in row] for r in (without, with_it)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3

    class Careless(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            torch.rand(1)

    _, moved = trained(tmp_path / "c", Careless())
    assert not torch.equal(without.weights[-1], moved.weights[-1])


def test_the_log_has_the_probe_sets_curvature(tmp_path: Any) -> None:
    """In the history, and at loggers that come before it in the list; against eigsh on the model as it ends."""
    callback = CurvatureCallback(PROBES, every=3, k=2, tol=1e-4)
    trainer, recorder = trained(tmp_path, callback)
    logged = [row for row in trainer.state.log_history if "curvature/eig_0" in row]
    assert [row["step"] for row in logged] == [3, 6]
    assert [row["curvature/eig_0"] for row in recorder.logs if "curvature/eig_0" in row] == [
        row["curvature/eig_0"] for row in logged
    ]
    names = {"eig_0", "eig_1", "sharpness", "stability", "trace", "trace_stderr", "overlap"}
    assert {f"curvature/{name}" for name in names} <= set(logged[0])
    assert logged[0]["curvature/sharpness"] == logged[0]["curvature/eig_0"]
    H = HessianOperator(Problem(trainer.model, PROBES, CausalLMLoss()))
    expected = eigsh(H, k=2, tol=1e-6, seed=1).eigenvalues.tolist()
    # an eigenvalue's error is below its residual, 1e-4 of it
    assert logged[1]["curvature/eig_0"] == pytest.approx(expected[0], rel=2e-4)
    assert logged[1]["curvature/eig_1"] == pytest.approx(expected[1], rel=2e-4)
    assert logged[0]["curvature/eig_0"] != pytest.approx(expected[0], rel=1e-2)
    # the same probes on the same matrix
    assert logged[1]["curvature/trace"] == pytest.approx(trace(H, num_matvecs=12, seed=0).estimate, rel=1e-4)


def test_the_next_measurement_starts_from_the_last_eigenvectors(tmp_path: Any) -> None:
    """With no learning the matrix stays, and its eigenpairs are found at once; no graph waits between two."""
    seen = []

    class Watching(CurvatureCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_step_end(*args, **kwargs)
            seen.append(self._problem.history.kept_graphs)

    callback = Watching(PROBES, every=1, trace_matvecs=None)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=0.0, report_to=[], save_strategy="no", use_cpu=True
    )
    Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=Rows(), callbacks=[callback]).train()
    first, second = callback.rows
    assert second.products < first.products
    assert second.sharpness == pytest.approx(first.sharpness, rel=1e-2)
    assert seen == [None, None]
    assert callback._problem is None


def test_a_later_failure_is_a_warning_and_a_first_one_an_error(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Training that has gone to infinity goes on; a probe set that does not fit the model is said before a step."""

    class Breaks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    model.transformer.ln_f.weight.fill_(float("inf"))

    callback = CurvatureCallback(PROBES, every=2, trace_matvecs=None)
    trained(tmp_path / "a", Breaks(), callback)
    assert [row.step for row in callback.rows] == [2]
    assert any("curvature was not measured" in record.getMessage() for record in caplog.records)
    with pytest.raises(ValueError, match="fields input_ids.* no labels|expected 0 <= id < 40"):
        trained(tmp_path / "b", CurvatureCallback([{"input_ids": torch.tensor([[900, 1]])}]))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="every=0 is out of range"):
        CurvatureCallback(PROBES, every=0)
    callback = CurvatureCallback(PROBES, kind="fisher")
    model = nn.Module()
    with pytest.raises(RuntimeError, match="called by no transformers.Trainer"):
        callback.on_train_begin(None, None, None, model=model)
