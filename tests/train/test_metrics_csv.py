"""metrics.csv: one row an update, whatever kills and resumes the run."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from iwin.errors import ConfigError, DataError
from iwin.train.metrics_csv import MetricsCSV, read_metrics


def log(logger: MetricsCSV, updates: range) -> None:
    """Log as Lightning does: the step is the index of the update; every fourth update ends an epoch."""
    for done in updates:
        logger.log_metrics({"train/loss": 1 / done, "lr": 1e-3, "epoch": (done - 1) // 4}, step=done - 1)
        if done % 4 == 0:
            logger.log_metrics({"val/loss": 2 / done, "val/top1": done / 100, "epoch": (done - 1) // 4}, step=done - 1)


def test_one_row_an_update_and_columns_in_order_of_appearance(tmp_path: Path) -> None:
    log(MetricsCSV(tmp_path / "run"), range(1, 9))
    table = read_metrics(tmp_path / "run" / "metrics.csv")
    assert list(table) == ["epoch", "step", "train/loss", "lr", "val/loss", "val/top1"]
    assert table["step"].tolist() == list(range(1, 9))
    assert table["epoch"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert np.isnan(table["val/top1"]).tolist() == [True, True, True, False] * 2
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1] == "0,1,1.0,0.001,,"


def test_numbers_come_back_as_the_same_floats(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, float(np.float32(0.1))]
    logger = MetricsCSV(tmp_path)
    for step, value in enumerate(values):
        logger.log_metrics({"x": np.float64(value)}, step=step)
    assert read_metrics(logger.path)["x"].tolist() == values


def test_every_row_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    for done in range(1, 9):
        log(logger, range(done, done + 1))
        assert read_metrics(logger.path)["step"][-1] == done


def test_old_rows_are_not_touched_while_the_columns_stay(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    log(logger, range(1, 6))
    before, inode = logger.path.read_bytes(), logger.path.stat().st_ino
    log(logger, range(6, 13))
    assert logger.path.read_bytes().startswith(before)
    assert logger.path.stat().st_ino == inode


@pytest.mark.parametrize("resume_at", [0, 3, 4, 7, 9, 10])
def test_a_resumed_log_equals_the_uninterrupted_one(tmp_path: Path, resume_at: int) -> None:
    log(MetricsCSV(tmp_path / "whole"), range(1, 13))
    log(MetricsCSV(tmp_path / "cut"), range(1, 11))
    resumed = MetricsCSV(tmp_path / "cut")
    resumed.truncate_after(resume_at)
    log(resumed, range(resume_at + 1, 13))
    assert resumed.path.read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_a_log_can_be_taken_back_within_one_process(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    log(logger, range(1, 11))
    logger.truncate_after(5)
    log(logger, range(6, 8))
    assert read_metrics(logger.path)["step"].tolist() == list(range(1, 8))


def test_a_kill_at_any_byte_costs_the_last_line_at_most(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    log(logger, range(1, 11))
    whole = logger.path.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for size in range(last, len(whole)):
        logger.path.write_bytes(whole[:size])
        assert read_metrics(logger.path)["step"].tolist() == list(range(1, 10))
        log(MetricsCSV(tmp_path), range(10, 11))
        assert logger.path.read_bytes() == whole


def test_a_second_process_joins_the_row_of_the_update_it_resumes_at(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).log_metrics({"train/loss": 0.123456789, "val/top1": 0.123456789}, step=4)
    MetricsCSV(tmp_path).log_metrics({"val/top1": 0.5}, step=4)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss,val/top1\n,5,0.123456789,0.5\n"


def test_the_log_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    log(MetricsCSV(tmp_path), range(1, 6))
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"rows up to update 5, and update 1 is being logged.*choose another folder"):
        log(MetricsCSV(tmp_path), range(1, 2))
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log(MetricsCSV(tmp_path / "run"), range(1, 6))
    assert not (tmp_path / "run").exists()


def test_a_row_belongs_to_an_update(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a step"):
        MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no log at"),
        ("", "no metrics.csv"),
        ("time,loss\n1,2\n", "no metrics.csv"),
        ("epoch,step,x\n0,1,2.0\n0,2\n0,3,1.0\n", "row 3"),
        ("epoch,step,x\n0,1,2.0\n0,2,two\n0,3,1.0\n", "row 3"),
    ],
)
def test_what_is_no_log_is_an_error_for_people(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_metrics(path)


class Tiny(L.LightningModule):
    """One weight, so that Lightning's own counting of steps is what the table is tried against."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        self.log("update", float(self.global_step + 1))
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/updates", float(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, epochs: int, resume_at: int | None = None) -> dict[str, np.ndarray]:
    data = torch.utils.data.DataLoader(torch.arange(10.0).reshape(10, 1), batch_size=1)
    logger = MetricsCSV(folder)
    keep = [
        ModelCheckpoint(folder, filename="every-{step}", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(folder, filename="end-{step}", every_n_epochs=1, save_top_k=-1),
    ]
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=logger, callbacks=keep, log_every_n_steps=1,
        accumulate_grad_batches=2, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    checkpoint = None
    if resume_at is not None:
        logger.truncate_after(resume_at)
        checkpoint = next(folder.glob(f"end-step={resume_at}.ckpt"), folder / f"every-step={resume_at}.ckpt")
    torch.manual_seed(0)
    trainer.fit(Tiny(), data, data, ckpt_path=checkpoint)
    return read_metrics(logger.path)


@pytest.mark.filterwarnings("ignore")
def test_steps_are_the_updates_done_through_lightning_and_its_resume(tmp_path: Path) -> None:
    whole = fit(tmp_path, epochs=2)
    assert whole["step"].tolist() == list(range(1, 11))
    assert whole["update"].tolist() == whole["step"].tolist()
    ends = ~np.isnan(whole["val/updates"])
    assert whole["val/updates"][ends].tolist() == whole["step"][ends].tolist() == [5, 10]
    for resume_at in (10, 7, 5):
        longer = fit(tmp_path, epochs=3, resume_at=resume_at)
        assert longer["step"].tolist() == longer["update"].tolist() == list(range(1, 16)), f"resumed at {resume_at}"
