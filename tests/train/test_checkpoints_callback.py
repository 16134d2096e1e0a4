from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch.utils.data import DataLoader

from iwin.errors import ConfigError
from iwin.train import checkpoint as saving
from iwin.train.callbacks.checkpoints import Best, Checkpoints
from iwin.train.checkpoint import DurableCheckpointIO, SaveError
from iwin.train.durable import put_checkpoint, remove_checkpoint
from iwin.train.recovery import read_checkpoint, recover, update_name
from iwin.weights.digest import damage

BATCHES = 4  # of an epoch, each an update
SCORES = (0.5, 0.7, 0.7, 0.6, float("nan"), 0.9)
NONE: Any = None


class Task(lightning.LightningModule):
    """Two weights; its validation of epoch e scores SCORES[e]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/top1", SCORES[self.current_epoch])
        self.log("val/loss", -SCORES[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(2.0 * BATCHES).reshape(-1, 2) / 8, batch_size=1)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(1, 2))


def trainer(epochs: int, *callbacks: Callback, **more: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        plugins=[DurableCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **more,
    )


def fit(folder: Path, epochs: int, *callbacks: Callback, more: Any = None, **keys: Any) -> Checkpoints:
    """Train, going on where the folder stands; returns the callback."""
    made = Checkpoints(folder, **keys)
    start = recover(folder).checkpoint
    trainer(epochs, *callbacks, made, **(more or {})).fit(Task(), ckpt_path=start, weights_only=True)
    return made


def names(folder: Path) -> set[str]:
    """Of the checkpoints, each of which has its hash."""
    found = {file.name for file in folder.glob("*.ckpt")}
    assert {file.name for file in folder.iterdir()} == found | {f"{name}.sha256" for name in found}
    assert all(damage(folder / name) is None for name in found)
    return {name.removeprefix("update-").removesuffix(".ckpt").lstrip("0") for name in found}


def update_of(path: Path) -> int:
    return read_checkpoint(path)["global_step"]


@pytest.mark.parametrize(
    ("epochs", "keys", "kept", "best"),
    [
        (3, {}, {"8", "12", "best"}, Best(0.7, 8)),
        (6, {"keep": 1}, {"24", "best"}, Best(0.9, 24)),
        (5, {"keep": 3, "every": ["2ep"]}, {"8", "16", "20", "best"}, Best(0.7, 8)),
        (4, {"keep": 9, "every": ["9ep"]}, {"4", "8", "16", "best"}, Best(0.7, 8)),
        (4, {"keep": 9, "monitor": "val/loss", "mode": "min"}, {"4", "8", "12", "16", "best"}, Best(-0.7, 8)),
        (2, {"keep": 9, "every": ["1ep", "3st"]}, {"3", "4", "6", "8", "best"}, Best(0.7, 8)),
        (1, {"keep": 9, "every": ["1ep", "1st"]}, {"1", "2", "3", "4", "best"}, Best(0.5, 4)),
        (3, {"monitor": None}, {"8", "12"}, None),
    ],
)
def test_what_is_kept(tmp_path: Path, epochs: int, keys: dict[str, Any], kept: set[str], best: Best | None) -> None:
    callback = fit(tmp_path, epochs, **keys)
    assert names(tmp_path) == kept
    assert (None if best is None else best.update) == (None if callback.best is None else callback.best.update)
    if best is not None and callback.best is not None:
        assert callback.best.score == pytest.approx(best.score)
        assert update_of(tmp_path / "best.ckpt") == best.update


def test_accumulation_saves_after_updates(tmp_path: Path) -> None:
    fit(tmp_path, 2, keep=9, every=["1ep", "1st"], more={"accumulate_grad_batches": 2})
    assert names(tmp_path) == {"1", "2", "3", "4", "best"}


def test_an_epochs_last_update_is_saved_with_its_validation(tmp_path: Path) -> None:
    fit(tmp_path, 1, every=["1ep", "1st"])
    saved = read_checkpoint(tmp_path / update_name(BATCHES))
    assert saved["callbacks"]["Checkpoints"] == {"best": {"score": pytest.approx(0.5), "update": BATCHES}}
    assert saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_keeps_the_best_score(tmp_path: Path, cut: int) -> None:
    """At 3 the best is older than the checkpoint, and the score that follows is lower."""
    fit(tmp_path / "cut", cut)
    callback = fit(tmp_path / "cut", 4)
    whole = fit(tmp_path / "whole", 4)
    assert callback.best == whole.best
    assert names(tmp_path / "cut") == names(tmp_path / "whole")
    for name in ("best.ckpt", update_name(16)):
        one, other = (read_checkpoint(tmp_path / run / name) for run in ("cut", "whole"))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"])


class Stop(Callback):
    """Ends training after update 6, inside the second epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = trainer.global_step == 6


def test_stopped_inside_an_epoch_no_checkpoint_says_that_it_is_done(tmp_path: Path) -> None:
    fit(tmp_path, 4, Stop())
    assert names(tmp_path) == {"4", "best"}


class SaveAt(Callback):
    """Has a checkpoint saved after an update, more than once."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.update:
            trainer.checkpoint_callback.save(trainer)
            trainer.checkpoint_callback.save(trainer)


def test_others_can_have_a_checkpoint_saved(tmp_path: Path) -> None:
    fit(tmp_path, 1, SaveAt(2), keep=9)
    assert names(tmp_path) == {"2", "4", "best"}


def test_the_average_of_the_weights_goes_with_a_run(tmp_path: Path) -> None:
    def average() -> EMAWeightAveraging:
        return EMAWeightAveraging(decay=0.5)

    fit(tmp_path / "whole", 3, average())
    fit(tmp_path / "cut", 2, average())
    fit(tmp_path / "cut", 3, average())
    one, other = (read_checkpoint(tmp_path / run / update_name(12)) for run in ("whole", "cut"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][key], other[part][key]) for key in one[part]), part
    assert not torch.equal(one["state_dict"]["layer.weight"], one["current_model_state"]["layer.weight"])


def test_a_monitor_that_is_not_logged_is_told_at_the_first_validation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"monitor=val/top5 is not among the metrics.*did you mean val/top1"):
        fit(tmp_path, 3, monitor="val/top5")
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"keep": 0}, "keep must be a whole number of at least 1, got 0"),
        ({"every": ["0ep"]}, "every=0ep must be above 0"),
        ({"every": ["0.5st"]}, "every=0.5st: updates come in whole numbers"),
        ({"every": "1ep"}, "must be a list of durations"),
        ({"every": [5]}, "every=5 is no duration"),
        ({"mode": "maximum"}, "mode=maximum: did you mean max"),
    ],
)
def test_values_that_cannot_be_used_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Checkpoints(tmp_path, **keys)


def test_without_the_durable_writer_there_is_no_training(tmp_path: Path) -> None:
    bare = lightning.Trainer(callbacks=[Checkpoints(tmp_path)], logger=False, accelerator="cpu", max_epochs=1)
    with pytest.raises(TypeError, match="DurableCheckpointIO"):
        bare.fit(Task())


class Full:
    """A disk that is full for the checkpoint of one update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, update: int) -> None:
        def put(path: Path, fill: Any) -> None:
            if path.name == update_name(update):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            put_checkpoint(path, fill)

        monkeypatch.setattr(saving, "put_checkpoint", put)


@pytest.mark.parametrize("update", [8, 12])
def test_a_write_that_fails_ends_the_run_and_the_next_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """In the middle it is the next save that tells, at the end the end."""
    Full(monkeypatch, update)
    with pytest.raises(SaveError, match=rf"update-{update:08d}.ckpt could not be written: No space left"):
        fit(tmp_path, 3)
    assert update_of(recover(tmp_path).checkpoint or NONE) == update - 4
    monkeypatch.undo()
    assert fit(tmp_path, 3).best == fit(tmp_path / "whole", 3).best


def test_an_error_of_training_is_told_with_that_of_the_writer_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Broken(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise KeyError("of training")

    Full(monkeypatch, 4)
    with pytest.raises(KeyError, match="of training") as caught:
        fit(tmp_path, 3, Broken())
    assert "could not be written" in caught.value.__notes__[0]
    assert "could not be written: No space left on device" in capsys.readouterr().err


def test_a_kill_between_a_checkpoint_and_its_being_the_best_is_mended(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    old = tmp_path.parent / f"{tmp_path.name}-old"
    shutil.copytree(tmp_path, old)
    fit(tmp_path, 2)
    remove_checkpoint(tmp_path / "best.ckpt")
    for file in old.glob("best.ckpt*"):
        shutil.copy(file, tmp_path)
    assert update_of(tmp_path / "best.ckpt") == 4
    assert fit(tmp_path, 3).best == Best(pytest.approx(0.7), 8)
    assert update_of(tmp_path / "best.ckpt") == 8


def test_a_best_that_is_damaged_is_made_again_from_the_checkpoint_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit(tmp_path, 2)
    remove_checkpoint(tmp_path / "best.ckpt")
    (tmp_path / "best.ckpt").write_bytes(b"torn")
    assert fit(tmp_path, 3).best == Best(pytest.approx(0.7), 8)
    assert update_of(tmp_path / "best.ckpt") == 8
    assert (tmp_path / "best.ckpt.damaged").read_bytes() == b"torn"
    assert "It is kept as best.ckpt.damaged" in capsys.readouterr().out


def test_a_best_that_is_lost_is_told_and_the_next_validation_makes_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit(tmp_path, 3, keep=1)
    remove_checkpoint(tmp_path / "best.ckpt")
    assert fit(tmp_path, 4, keep=1).best == Best(pytest.approx(0.6), 16)
    assert update_of(tmp_path / "best.ckpt") == 16
    assert "(0.7 after 8 updates) is lost" in capsys.readouterr().out


def test_a_best_from_after_the_checkpoint_that_a_run_goes_on_from_is_not_lost(tmp_path: Path) -> None:
    fit(tmp_path, 6, keep=9)
    for update in (16, 20, 24):
        path = tmp_path / update_name(update)
        path.rename(path.with_suffix(".elsewhere"))
    callback = fit(tmp_path, 5, keep=9)
    assert callback.best == Best(pytest.approx(0.9), 24)
    assert update_of(tmp_path / "best.ckpt") == 24
