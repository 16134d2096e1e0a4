"""Bad input ends in a message of a few lines, before any work, with an exit code that is not 0."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from iwin.app import main

NO_RUN = "the run began"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """Run a program in this process; returns what it says on stderr, and fails if training began."""

    def call(program: str, *args: str) -> str:
        def began(*args: object, **keys: object) -> None:
            pytest.fail(NO_RUN)

        monkeypatch.setattr("lightning.Trainer.fit", began)
        monkeypatch.setattr("lightning.Trainer.validate", began)
        monkeypatch.setattr(sys, "argv", [f"{program}.py", f"paths.runs_dir={tmp_path}/runs", *args])
        with pytest.raises(SystemExit) as ended:
            main(program)
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert 1 <= len(message.strip().splitlines()) <= 8, message
        assert "Traceback" not in message
        return message

    return call


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=iwin_tt", ["model=iwin_tt", "iwin_t"]),
        ("data=digit", ["data=digit", "digits"]),
        ("mixer=interleave", ["mixer=interleave", "interleaved"]),
        ("position=relativ", ["position=relativ", "relative"]),
        ("model.window_sze=2", ["model.window_sze", "model.window_size"]),
        ("trainer.max_epochs=2", ["trainer.max_epochs", "duration=300ep"]),
        ("modle=iwin_t", ["modle", "model"]),
        ("+nonsense=2", ["nonsense"]),
        ("model.window_size=0", ["window_size must be a whole number of at least 1, got 0"]),
        ("model.window_size=seven", ["window_size", "seven"]),
        ("data.image_size=3", ["smaller than one patch", "3"]),
        ("model.img_size=64", ["64 x 64", "32 x 32", "data.image_size"]),
        ("model.num_heads=[1,2,4]", ["num_heads", "[1, 2, 4]"]),
        ("model.num_heads=[1,2,4,7]", ["num_heads", "256", "7"]),
        ("model.structure=S4", ["structure", "S4", "S1"]),
        ("data.batch_size=0", ["batch_size", "0"]),
        ("data.batch_size=5000", ["5000", "batch_size"]),
        ("trainer.precision=16-mixed", ["16-mixed", "CUDA", "bf16-mixed"]),
        ("trainer.precision=fp8", ["fp8"]),
        ("trainer.accelerator=gpu", ["no CUDA device"]),
        ("duration=0ep", ["duration=0ep", "above 0"]),
        ("duration=3", ["duration=3", "20ep"]),
        ("duration=50%", ["duration=50%", "300ep"]),
        ("duration=30st", ["30 updates", "22", "1ep"]),
        ("global_batch=100", ["64", "50 or 100"]),
        ("global_batch=-1", ["global_batch", "-1"]),
        ("schedule.warmup=50ep", ["schedule.warmup=50ep", "shorten"]),
        ("schedule.warmup=5", ["5 is no duration", "20ep"]),
        ("+callbacks.curve.every=2", ["callbacks.curve.every", "there is no curve"]),
        ("+logger.wandb.mode=ofline", ["logger.wandb.mode", "there is no wandb"]),
        ("optimizer.name=adamx", ["adamx", "adam"]),
        ("optimizer.lr=fast", ["optimizer", "fast"]),
        ("optimizer.weight_decay=-1", ["optimizer.weight_decay", "-1"]),
        ("schedule.min_lr=-1", ["schedule.min_lr", "-1"]),
        ("task.label_smoothing=2", ["task.label_smoothing", "2"]),
        ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val", "-1"]),
        ("validate_every=5st", ["validate_every=5st", "22", "1ep"]),
        ("validate_every=0ep", ["validate_every=0ep"]),
        ("+trainer.max_steps=5", ["trainer.max_steps", "duration=2000st"]),
        ("trainer.devices=many", ["trainer", "devices"]),
        ("seed=-1", ["seed", "-1"]),
        ("seed=null", ["seed"]),
        ("model.name=iwin_t", ["model=iwin_t"]),
        ("model.depths=3", ["depths must be a list", "3"]),
        ("model.window_size=-2", ["window_size must be a whole number of at least 1, got -2"]),
        ("model=timm", ["model_name"]),
        ("data.batch_size=abc", ["batch_size", "abc"]),
        ("paths.runs_dir=null", ["runs_dir"]),
        ("paths.runs_dir=/dev/null/runs", ["/dev/null/runs", "paths.runs_dir"]),
        ("data.root=/nowhere/at/all", ["/nowhere/at/all", "data.root", "iwin shards write"]),
    ],
)
def test_training_refuses(run, override: str, said: list[str]) -> None:
    if torch.cuda.is_available() and "CUDA" in "".join(said):
        pytest.skip("this machine has a CUDA device")
    message = run("train", override)
    for word in said:
        assert word in message, message


def test_imagenet_that_is_not_there_names_path_key_and_command(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("IWIN_DATA", str(tmp_path))
    message = run("train", "model=iwin_b", "data=in1k", "trainer.precision=32-true")
    for word in (str(tmp_path / "in1k"), "IWIN_IN1K", "data.root", "iwin shards write"):
        assert word in message, message


def test_an_empty_data_folder_is_said_so(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = run("train", "data=in1k", f"data.root={tmp_path}/empty", "trainer.precision=32-true")
    assert str(tmp_path / "empty") in message
    message = run("train", "data=folder", f"data.root={tmp_path}/empty", "trainer.precision=32-true")
    assert str(tmp_path / "empty") in message


def test_evaluation_refuses_what_is_no_checkpoint(run, tmp_path: Path) -> None:
    assert "checkpoint=" in run("eval")
    assert "no such file" in run("eval", f"checkpoint={tmp_path}/absent.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    assert "cannot be read as weights" in run("eval", f"checkpoint={tmp_path}/text.ckpt")
    (tmp_path / "folder").mkdir()
    assert "best.ckpt" in run("eval", f"checkpoint={tmp_path}/folder")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    assert "no checkpoint of a run" in run("eval", f"checkpoint={tmp_path}/other.ckpt")
