"""The whole program meets losses that are not finite: skipped, gone back, stopped with a report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from iwin.batch import Batch
from iwin.train.rollback import read_roll_backs
from iwin.train.task import ClassificationTask

SHORT = (
    *("duration=2ep", "trainer.limit_train_batches=8", "data.batch_size=16", "data.num_workers=0"),
    *("trainer.limit_val_batches=1", "log_every=1st", "callbacks.curves=null"),
)


@pytest.fixture
def train(program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Train with a NaN in the loss of these (attempt, update from 1); returns the run's folder."""
    step = ClassificationTask.training_step

    def call(at: set[tuple[int, int]], *args: str, where: str = "runs") -> Path:
        def poisoned(self: ClassificationTask, batch: Batch, batch_idx: int) -> torch.Tensor:
            loss = step(self, batch, batch_idx)
            return loss * float("nan") if (batch.position.attempt, self.global_step + 1) in at else loss

        monkeypatch.setattr(ClassificationTask, "training_step", poisoned)
        program("train", f"paths.runs_dir={tmp_path / where}", *SHORT, *args)
        (folder,) = (tmp_path / where).iterdir()
        return folder

    return call


def steps(folder: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((folder / "metrics.csv").open())]


def test_a_run_that_went_back_has_each_update_once_and_says_so(train) -> None:
    folder = train({(0, 2), (0, 10), (0, 11), (0, 12)})
    result = json.loads((folder / "result.json").read_text())
    assert (result["updates"], result["skipped_updates"], result["roll_backs"]) == (16, 1, 1)
    assert steps(folder) == list(range(1, 17))
    skipped = [row["train/skipped"] for row in csv.DictReader((folder / "metrics.csv").open())]
    assert [float(value) for value in skipped if value] == [0.0] + 15 * [1.0]
    assert read_roll_backs(folder) == [{"attempt": 0, "updates": [10, 11, 12]}]


def test_a_run_that_stopped_goes_on_where_the_limit_is_raised(train, tmp_path: Path, capsys) -> None:
    at = {(attempt, update) for attempt in (0, 1) for update in (10, 11, 12)}
    with pytest.raises(SystemExit) as stopped:
        train(at, "callbacks.nonfinite.max_roll_backs=1")
    assert stopped.value.code == 2
    assert "updates 10, 11, 12" in capsys.readouterr().err
    folder = train(at, "callbacks.nonfinite.max_roll_backs=2")
    assert steps(folder) == list(range(1, 17))
    assert len(read_roll_backs(folder)) == 2
