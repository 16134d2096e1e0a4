"""Weights trained at one size go on at another: Iwin as it is, Swin with resized tables, by one form of command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from iwin.train.run_folder import find_checkpoint
from iwin.weights.read import read_run_checkpoint

SHORT = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "data.num_workers=0", "schedule.warmup=1st")


@pytest.fixture
def trained(program, tmp_path: Path):
    """Train; returns what was printed and the run's folder."""

    def call(where: str, *args: str) -> tuple[str, Path]:
        printed = program("train", f"paths.runs_dir={tmp_path / where}", "duration=1ep", *SHORT, *args)
        return printed, max((tmp_path / where).iterdir(), key=lambda folder: folder.stat().st_mtime)

    return call


@pytest.mark.parametrize(("family", "tables"), [("iwin", 0), ("swin", 8)])
@pytest.mark.parametrize(("size", "window"), [(48, 6), pytest.param(64, 8, marks=pytest.mark.slow)])
def test_fine_tuning_at_a_larger_size(trained, family: str, tables: int, size: int, window: int) -> None:
    _, run = trained("runs", f"model={family}_micro")
    printed, tuned = trained("tuned", f"experiment={family}_micro_{size}", f"init.path={run}")
    assert re.search(rf"stage 0 +map {size // 4}x{size // 4}, window {window},", printed)
    assert (f"{tables} resized" in printed) == (tables > 0)
    before = re.search(r"Before any update:\n(?:validation \d.*\n)*validation top-1 ([\d.]+) %", printed)
    assert before is not None
    result = json.loads((tuned / "result.json").read_text())
    assert f"{100 * result['before']['val/top1']:.2f}" == before[1]
    first, *rest = csv.DictReader((tuned / "metrics.csv").open())
    assert (first["step"], float(first["val/top1"])) == ("0", result["before"]["val/top1"])
    assert [row["step"] for row in rest] == ["2"] or [row["step"] for row in rest] == ["1", "2"]
    smaller = json.loads((run / "result.json").read_text())
    grown = result["parameters"] - smaller["parameters"]  # Swin's tables grow with the window
    assert (grown > 0) == (family == "swin")
    assert result["flops"] > smaller["flops"] > 0
    weights = read_run_checkpoint(find_checkpoint(str(tuned))).tensors
    assert any("positions" in name for name in weights) == (family == "swin")


def test_the_validation_before_is_that_of_the_loaded_weights(trained, program) -> None:
    _, run = trained("runs", "model=iwin_micro")
    _, tuned = trained("tuned", "init=checkpoint", f"init.path={run}", "optimizer.lr=1e-3")
    program("eval", f"checkpoint={run}", "trainer.limit_val_batches=1")
    told = json.loads((run / "eval" / "best" / "eval.json").read_text())["metrics"]
    assert json.loads((tuned / "result.json").read_text())["before"] == told


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_first_validation(trained, program, tmp_path: Path, monkeypatch) -> None:
    _, run = trained("runs", "model=iwin_micro")
    args = ("init=checkpoint", f"init.path={run}", "log_every=1st")
    _, whole = trained("whole", *args, "duration=2ep")
    monkeypatch.setattr("iwin.train.task.ClassificationTask.on_train_epoch_start", _dies_in_epoch_1)
    with pytest.raises(SystemExit):
        trained("torn", *args, "duration=2ep")
    monkeypatch.undo()
    printed, torn = trained("torn", *args, "duration=2ep")
    _, goes_on, printed = printed.partition("going on from")  # what comes before is of the start that died
    assert goes_on
    assert "Before any update" not in printed
    assert (torn / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    results = [json.loads((folder / "result.json").read_text())["before"] for folder in (torn, whole)]
    assert results[0] == results[1] is not None


def _dies_in_epoch_1(self) -> None:
    if self.current_epoch == 1:
        raise RuntimeError("died")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("experiment=iwin_micro_48",), ["init.path is needed"]),
        (("experiment=iwin_micro_48", "init.path=nowhere.pth"), ["init.path=nowhere.pth", "no such file"]),
        (("init=checkpoint", "init.path=RUN", "data.num_classes=12"), ["12", "10 classes"]),
        (("experiment=iwin_micro_48", "init.path=RUN", "global_batch=100"), ["global_batch=100", "50 or 100"]),
        (("init=checkpoint", "init.path=RUN", "init.heads=reset"), ["init.heads", "init.head"]),
    ],
)
def test_what_cannot_be_fine_tuned_is_told_before_work(
    trained, program, tmp_path: Path, capsys, args: tuple[str, ...], expected: list[str]
) -> None:
    if any("RUN" in arg for arg in args):
        _, run = trained("runs", "model=iwin_micro")
        args = tuple(arg.replace("RUN", str(run)) for arg in args)
    with pytest.raises(SystemExit) as ended:
        program("train", f"paths.runs_dir={tmp_path / 'tuned'}", *args)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert all(part in told for part in expected), told
    assert not list((tmp_path / "tuned").glob("*")) if (tmp_path / "tuned").exists() else True


def test_own_images_are_fine_tuned_with_a_new_head(trained, tmp_path: Path) -> None:
    from PIL import Image

    _, run = trained("runs", "model=iwin_micro")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 3)):
        for number, name in enumerate(("cat", "dog", "eel")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count + number):
                pixels = torch.randint(0, 255, (40, 40, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    printed, tuned = trained(
        "tuned",
        *("experiment=finetune", "model=iwin_micro", f"data.root={tmp_path / 'images'}", f"init.path={run}"),
        *("data.image_size=32", "data.batch_size=4", "trainer.precision=32-true"),
    )
    assert re.search(r"chance +33.3 % by guessing; 41.7 % by always naming the most frequent class", printed)
    assert "Before any update" in printed
    assert read_run_checkpoint(find_checkpoint(str(tuned))).tensors["head.fc.weight"].shape == (3, 256)
