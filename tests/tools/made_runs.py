"""Folders of runs and sweeps as training leaves them, made in no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

COMMIT, OTHER_COMMIT = "1a2b3c4d" * 5, "9f8e7d6c" * 5


def make_run(
    folder: Path,
    *,
    model: str = "iwin_micro",
    data: str = "digits",
    image_size: int = 32,
    seed: int = 0,
    duration: str = "10ep",
    ema: bool = False,
    paper: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    commit: str = COMMIT,
    dirty: bool = False,
    sha256: str = "aa",
    gpus: tuple[str, ...] = (),
    top1: float | None = 0.9,
    log: str | None = None,
    **result: Any,
) -> Path:
    """A run folder. top1: None for a run that has not ended. result: overrides of result.json."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "duration": duration,
        "model": {"name": model},
        "data": {"name": data, "image_size": image_size, "seed": seed},
        "callbacks": {"progress": {}, **({"ema": {"decay": 0.99}} if ema else {})},
        "trainer": {"devices": 1},
        "paths": {"runs_dir": str(folder.parent)},
        "paper": paper,
        **(settings or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    start = {
        "code": {"commit": commit, "dirty": dirty},
        "machine": {"gpus": list(gpus)},
        "seed": seed,
        "data": {"name": data, "train": {"root": str(folder), "shards": [{"name": "a.tar", "sha256": sha256}]}},
        "command": ["python", "train.py"],
    }
    (folder / "provenance.json").write_text(json.dumps({"starts": [start]}))
    (folder / "metrics.csv").write_text(made_log(top1 or 0.5, seed) if log is None else log)
    if top1 is not None:
        whole = {
            "last": {"val/top1": top1, "val/top5": 1.0, "val/loss": 0.5},
            "best": {"metric": "val/top1", "score": top1 + 0.005, "update": 90},
            "before": None,
            "epochs": 10,
            "updates": 100,
            "seconds_since_last_start": 9.0,
            "skipped_updates": 0,
            "roll_backs": 0,
            "parameters": 1_640_000,
            "flops": 12_345_678,
            "images_per_s": 872.0,
            "peak_memory_bytes": 1_422_000_000,
            "peak_memory_of": "process",
            **result,
        }
        (folder / "result.json").write_text(json.dumps(whole))
    return folder


def made_log(top1: float, seed: int = 0, epochs: int = 10) -> str:
    """A metrics.csv of ten updates an epoch: the loss falls, the accuracy rises to `top1`."""
    lines = ["epoch,step,train/loss,lr,val/top1"]
    for step in range(1, 10 * epochs + 1):
        epoch = (step - 1) // 10
        loss = 2.3 * 0.98**step + 0.05 * ((7 * step + 3 * seed) % 5)
        lines.append(f"{epoch},{step},{loss},0.001,{top1 * (1 - 0.6 ** (epoch + 1 + seed)) if step % 10 == 0 else ''}")
    return "\n".join(lines) + "\n"


def make_sweep(folder: Path, sweep: str, cells: list[dict[str, Any]]) -> Path:
    """A sweep's folder with its sweep.json. Cells have overrides and what else is not as of a finished one."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = [
        {
            "name": ",".join(f"{key}={value}" for key, value in cell["overrides"].items()),
            "folder": None,
            "state": "finished",
            "reason": None,
            "exit_code": 0,
            **cell,
        }
        for cell in cells
    ]
    command = ["/usr/bin/python", "train.py", "-m", f"sweep={sweep}", "data=digits"]
    (folder / "sweep.json").write_text(
        json.dumps({"sweep": sweep, "data": "digits", "command": command, "cells": whole})
    )
    return folder
