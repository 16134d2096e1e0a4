"""A NaN never reaches the weights, is named and counted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from nonfinite_runs import BATCH, PLACES, UPDATES, Task, everything, finite, run, same
from torch import nn

from iwin.errors import ConfigError, DataError
from iwin.train.callbacks.nonfinite import COLUMNS, NonFinite, read_nonfinite
from iwin.train.guard import UpdateGuard, spoil_gradients
from iwin.train.rollback import read_roll_backs
from iwin.train.task import ClassificationTask


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_the_update_leaves_no_trace_but_its_record(tmp_path: Path, place: str, accumulation: int) -> None:
    at, options = {(0, 1), (0, 6)}, {"accumulation": accumulation}
    task = Task(at, place, **options)
    poisoned = run(task, tmp_path / place, **options)
    omitted = run(Task(at, "omitted", **options), tmp_path / "omitted", **options)
    sound = run(Task(**options), tmp_path / "sound", **options)
    assert poisoned.global_step == UPDATES
    assert same(everything(poisoned), everything(omitted))
    assert finite(everything(poisoned))
    assert not same(everything(poisoned), everything(sound))
    assert not (tmp_path / "sound" / "nonfinite.csv").exists()
    assert sound.callback_metrics["train/skipped"] == 0
    assert poisoned.callback_metrics["train/skipped"] == 2

    rows = read_nonfinite(tmp_path / place / "nonfinite.csv")
    dataset = poisoned.datamodule.train_dataset
    for update in (1, 6):
        samples = [index for _, number, indices in task.seen if number == update for index in indices]
        assert [row[5] for row in rows if row[1] == update] == [dataset.key(index) for index in samples]
    assert len(rows) == 2 * BATCH * accumulation
    bad = {row[3] for row in rows if not torch.isfinite(torch.tensor(row[4]))}
    assert bad == (set() if place == "gradient" else {0}), "the micro-batch whose loss it was"


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"name": "adamw", "options": {"fused": True}}, "32-true"),  # told on the device, as on CUDA
        ({"name": "adamw", "options": {"fused": True}}, "bf16-mixed"),
        ({"name": "adamw"}, "bf16-mixed"),
        ({"name": "lamb"}, "32-true"),
        ({"name": "adan"}, "32-true"),
        ({"name": "sgd", "options": {"momentum": 0.9}}, "32-true"),
        ({"name": "sgd", "options": {"momentum": 0.9, "fused": True}}, "32-true"),
    ],
    ids=str,
)
def test_any_optimizer_skips_its_whole_step(tmp_path: Path, options: dict[str, Any], precision: str) -> None:
    poisoned = run(Task({(0, 1), (0, 5)}, **options), tmp_path / "a", precision=precision)
    omitted = run(Task({(0, 1), (0, 5)}, "omitted", **options), tmp_path / "b", precision=precision)
    state, wanted = everything(poisoned), everything(omitted)
    assert same(state["model"], wanted["model"])
    assert same(state["optimizer"]["state"], wanted["optimizer"]["state"])


def test_a_sound_run_is_what_it_was_without_the_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = run(Task(), tmp_path / "guarded")
    for hook in ("on_before_backward", "configure_gradient_clipping", "optimizer_step"):
        monkeypatch.delattr(ClassificationTask, hook)
    monkeypatch.setattr(NonFinite, "on_train_batch_end", lightning.Callback.on_train_batch_end)
    assert same(everything(guarded), everything(run(Task(), tmp_path / "plain")))


def test_a_loss_that_is_nan_spoils_its_gradients_and_no_other_loss_does() -> None:
    for value in (1.0, -3.5, 1e15):
        weight = torch.full((3,), value, requires_grad=True)
        (wanted,) = torch.autograd.grad((weight**2).sum(), weight)
        loss = (weight**2).sum()
        spoil_gradients(loss)
        assert torch.equal(torch.autograd.grad(loss, weight)[0], wanted)
    for bad in (float("nan"), float("inf")):
        loss = (weight**2).sum() + bad
        spoil_gradients(loss)
        assert torch.autograd.grad(loss, weight)[0].isnan().all()


def test_the_average_of_the_weights_takes_in_the_unchanged_weights(tmp_path: Path) -> None:
    averages = []
    for place in ("input", "omitted"):
        ema = EMAWeightAveraging(decay=0.5)
        run(Task({(0, 4)}, place), tmp_path / place, ema)
        averages.append(ema._average_model.module.model.state_dict())
    assert finite(averages[0])
    assert same(*averages)


def test_a_scaler_that_overflows_is_not_counted_until_it_can_do_no_more(tmp_path: Path) -> None:
    def trained(start: float, growth_interval: int) -> tuple[lightning.Trainer, torch.amp.GradScaler]:
        scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=growth_interval)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        at = {(0, 3), (0, 5), (0, 7)}
        return run(Task(at, "gradient"), tmp_path / str(start), plugins=[plugin]), scaler

    overflowing, scaler = trained(2.0**10, 100)
    assert scaler.get_scale() == 2.0**7
    assert overflowing.callback_metrics["train/skipped"] == 0
    assert finite(everything(overflowing))
    assert overflowing.optimizers[0].state_dict()["state"][0]["step"] == UPDATES - 3
    helpless, scaler = trained(2.0, 100)
    assert helpless.callback_metrics["train/skipped"] == 2
    assert finite(everything(helpless))


def test_a_fused_optimizer_with_a_scaler_is_refused(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ConfigError, match="bf16-mixed"):
        run(Task(options={"fused": True}), tmp_path, plugins=[plugin])


def test_a_huge_gradient_whose_norm_overflows_counts_and_clipping_by_value_hides_none() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weight], fused=True)
    guard = UpdateGuard(nn.Linear(1, 1))
    for gradient, skipped in ((1e30, True), (float("inf"), True), (100.0, False)):
        weight.grad = torch.full((4,), gradient)
        guard.pass_or_skip(optimizer, clip=1.0, by_value=True)
        assert bool(guard.skipped) is skipped
        optimizer.step()
        assert bool((weight == 0).all()) is skipped
    assert weight.grad.max() == 1


def test_a_record_that_a_kill_cut_short_reads_to_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "nonfinite.csv"
    rows = [(0, 5, 0, 0, 1.5, 'a "b", c'), (0, 5, 1, 0, float("inf"), "line\nbreak")]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    assert read_nonfinite(path) == rows
    whole = path.read_bytes()
    path.write_bytes(whole + b"0,6,0,0,2.")
    assert read_nonfinite(path) == rows
    path.write_bytes(whole + b"0,6,0,zero,2.0,x\n")
    with pytest.raises(DataError, match="zero"):
        read_nonfinite(path)
    (tmp_path / "roll_backs.json").write_text("{")
    with pytest.raises(DataError, match=r"roll_backs\.json is damaged"):
        read_roll_backs(tmp_path)


@pytest.mark.gpu
def test_on_cuda_nothing_waits_for_the_verdict(tmp_path: Path) -> None:
    trainers = {}
    for place in ("loss", "omitted"):
        task = Task({(0, 4)}, place)
        torch.cuda.set_sync_debug_mode("default")
        trainers[place] = run(task, tmp_path / place, accelerator="cuda")
    assert same(everything(trainers["loss"])["model"], everything(trainers["omitted"])["model"])
    assert {row[1] for row in read_nonfinite(tmp_path / "loss" / "nonfinite.csv")} == {4}
    guard, weight = UpdateGuard(nn.Linear(1, 1)), nn.Parameter(torch.zeros(4, device="cuda"))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.full_like(weight, float("nan"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard.pass_or_skip(optimizer, clip=1.0)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool((weight == 0).all())
