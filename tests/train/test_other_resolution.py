"""A run is evaluated at another resolution by one key, with tables resized where the model has some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(("model", "resized"), [("iwin_micro", False), ("swin_micro", True)])
def test_evaluation_at_another_resolution(program, tmp_path: Path, model: str, resized: bool) -> None:
    short = ("duration=1ep", "trainer.limit_train_batches=2", "schedule.warmup=0st", "data.num_workers=0")
    program("train", f"model={model}", *short, f"paths.runs_dir={tmp_path}")
    (folder,) = tmp_path.iterdir()
    losses = []
    for side in (32, 48):
        printed = " ".join(program("eval", f"checkpoint={folder}", f"data.image_size={side}").split())
        assert ("resized" in printed) == (resized and side == 48)
        (made,) = [path for path in (folder / "eval").iterdir() if path.name == ("best" if side == 32 else "best-2")]
        report = json.loads((made / "eval.json").read_text())
        assert report["images"] == 359
        losses.append(report["metrics"]["val/loss"])
    assert losses[0] != losses[1]
