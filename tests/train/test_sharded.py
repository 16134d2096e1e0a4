"""trainer=fsdp trains as DDP does, and its checkpoints are like all others."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

import iwin
from iwin.app import register
from iwin.conf import conf_dir
from iwin.errors import ConfigError
from iwin.train.build import plain_config
from iwin.train.sharded import check_sharded, shard

CHECKOUT = Path(__file__).parents[2]
STEPS = Path(__file__).with_name("sharded_steps.py")
SHORT = (
    "duration=2ep",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.limit_train_batches=6",
    "trainer.gradient_clip_val=0",
    "~callbacks.ema",
    "callbacks.preemption.every=2st",
    "+callbacks.progress.every_s=0",
    "log_every=1st",
    "schedule.warmup=1st",
    "data.batch_size=16",
    "data.num_workers=0",
    "data.eval_batch_size=179",  # 180 images and 179: two batches on one rank, one on the other
)
PATIENCE_S = 300.0


def check(*overrides: str) -> None:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        check_sharded(plain_config(hydra.compose("train", ["trainer=fsdp", "data=in1k", *overrides])))


def test_the_recipe_of_large_models_is_taken() -> None:
    check("model=iwin_l", "data.image_size=1024")
    check("model=swin_t", "optimizer=lion", "trainer.precision=32-true")
    check("trainer=default", "callbacks=ema", "optimizer=muon")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks=ema", "callbacks.ema, which copies whole weights"),
        ("optimizer=lamb", "optimizer.name=lamb, which needs whole parameters: take one of adam, adamw"),
        ("optimizer=muon", "optimizer.name=muon"),
        ("model=timm", "model=timm, which has none of the blocks"),
        ("task.compile=true", "task.compile=true"),
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed"),
        ("trainer.strategy=fsdp", "choose trainer=fsdp"),
    ],
)
def test_what_would_train_wrongly_is_refused(override: str, message: str) -> None:
    extra = ["model.model_name=resnet18"] if override == "model=timm" else []
    with pytest.raises(ConfigError, match=message):
        check(override, *extra)


def test_batch_statistics_are_refused() -> None:
    model = iwin.create_model("iwin_micro", num_classes=2)
    model.norm = torch.nn.BatchNorm2d(2)
    with pytest.raises(ConfigError, match="batch statistics, which norm has"):
        shard(model)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What differed on each of two ranks, in every case of sharded_steps.py."""
    folder = tmp_path_factory.mktemp("steps")
    ranks = [subprocess.Popen([sys.executable, str(STEPS), str(rank), str(folder)]) for rank in range(2)]
    assert [rank.wait(PATIENCE_S) for rank in ranks] == [0, 0]
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_updates_are_those_of_ddp(steps: list[dict[str, Any]]) -> None:
    """Bit for bit, but where sharding sums in another order: the whole norm, and what is accumulated."""
    for found in steps:
        summed = {"by norm", "accumulated"}
        assert {case for case, of in found.items() if not of["equal"]} <= summed
        # The norm of one rank's share alone would clip updates of 1e-4 to another 4e-5.
        assert max(found[case]["furthest"] for case in summed) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("case", ["not finite", "not finite, fused"])
def test_one_rank_s_loss_that_is_not_finite_withholds_the_update_on_all(steps: list[dict[str, Any]], case: str) -> None:
    for found in steps:
        assert found[case]["skipped"] == found[case]["expected"] == [False, True, False]


def started(runs: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "train.py", f"paths.runs_dir={runs}", *SHORT, *args],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=(runs.parent / "stderr.txt").open("a"),
        bufsize=0,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def the_run(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(max((folder / "checkpoints").glob("update-*.ckpt")), weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints' parts have the same keys, types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bits_of_ddp_and_is_evaluated_as_any(tmp_path: Path, program) -> None:
    sharded, plain = tmp_path / "sharded", tmp_path / "plain"
    process = started(sharded, "trainer=fsdp")
    assert process.stdout is not None
    line = ""
    while "update 3/12" not in line:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        line = process.stdout.readline().decode() if ready else ""
        assert line, (tmp_path / "stderr.txt").read_text()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    for runs, choice in ((sharded, "trainer=fsdp"), (plain, "trainer=default")):
        again = started(runs, choice)
        again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, (tmp_path / "stderr.txt").read_text()
    folder, other = the_run(sharded), the_run(plain)
    a, b = saved(folder), saved(other)
    assert same(a["state_dict"], b["state_dict"])
    assert same(a["optimizer_states"], b["optimizer_states"])
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()

    printed = program("eval", f"checkpoint={folder}", "data.num_workers=0")
    assert "val/top1" in printed
    result = json.loads((folder / "result.json").read_text())
    (evaluated,) = (folder / "eval").glob("*/eval.json")
    assert json.loads(evaluated.read_text())["metrics"]["val/top1"] == pytest.approx(result["best"]["score"], abs=1e-6)
    model = iwin.create_model("iwin_micro", num_classes=10)
    iwin.load_pretrained(model, max((folder / "checkpoints").glob("update-*.ckpt")))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], a["state_dict"][f"model.{key}"]) for key in loaded)
