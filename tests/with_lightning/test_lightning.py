"""The callback in a real Trainer: rows at the right steps, logged, right, in checkpoints (`nox -s lightning`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from curvkit_core import CrossEntropyLoss, HessianOperator, Problem

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and its dependencies' own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl

    from curvkit_core.tracking.lightning import LightningCurvature


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, generator=generator).double(), torch.arange(8) % 2) for _ in range(4)]


def trained(callback: LightningCurvature, folder: Path, epochs: int, **options: Any) -> tuple[Module, Any]:
    module = Module()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=[callback], default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches(), batch_size=None))
    return module, trainer


def problem(module: Module) -> Problem:
    return Problem(module.net, batches(), CrossEntropyLoss())


def test_rows_are_measured_and_logged(tmp_path: Path) -> None:
    """Every 4 of 12 steps; the last row is the curvature of the network as training left it."""
    callback = LightningCurvature(problem, every=4, k=2, tol=1e-8, seed=0)
    module, trainer = trained(callback, tmp_path, epochs=3)
    assert [row.step for row in callback.rows] == [4, 8, 12]
    top = torch.linalg.eigvalsh(HessianOperator(problem(module)).to_dense())[-1]
    last = callback.rows[-1]
    assert abs(last.sharpness - float(top)) <= last.residuals[0] + 1e-12
    assert last.stability == pytest.approx(0.5 * float(top), abs=1e-6)
    assert float(trainer.callback_metrics["curvature/sharpness"]) == pytest.approx(last.sharpness, rel=1e-6)


def test_training_is_the_same_with_it(tmp_path: Path) -> None:
    """Bit for bit the weights of a run that measures once, after its last step."""
    one, _ = trained(LightningCurvature(problem, every=1), tmp_path, epochs=2)
    two, _ = trained(LightningCurvature(problem, every=8), tmp_path, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_accumulated_gradients_are_no_steps(tmp_path: Path) -> None:
    """Two batches a step: 4 steps in 2 epochs of 4 batches, each measured once."""
    callback = LightningCurvature(problem, every=1)
    trained(callback, tmp_path, epochs=2, accumulate_grad_batches=2)
    assert [row.step for row in callback.rows] == [1, 2, 3, 4]


def test_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    """Rows come back when training goes on from a file."""
    callback = LightningCurvature(problem, every=4)
    _, trainer = trained(callback, tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = LightningCurvature(problem, every=4)
    more = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, callbacks=[again], default_root_dir=tmp_path, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    more.fit(
        Module(), DataLoader(batches(), batch_size=None), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=False
    )
    assert [row.step for row in again.rows] == [4, 8]
    assert again.rows[0] == callback.rows[0]
