"""A NaN never reaches the weights, is named and counted; three in a row send a run back, and then stop it."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import lightning
import pytest
import torch
from hydra import compose
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from iwin.app import register
from iwin.batch import Batch
from iwin.conf import conf_dir
from iwin.data.module import ImageDataModule
from iwin.errors import ConfigError, DataError
from iwin.train.callbacks.nonfinite import COLUMNS, NonFinite, NonFiniteError, read_nonfinite
from iwin.train.fit import build_data
from iwin.train.guard import UpdateGuard, spoil_gradients
from iwin.train.optim import Optimizer
from iwin.train.rollback import read_roll_backs, train_with_roll_backs
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Cosine
from iwin.train.task import ClassificationTask

PLACES = ("loss", "constant", "gradient", "input")
UPDATES = 10
BATCH = 4


def digits(*overrides: str) -> ImageDataModule:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"data.batch_size={BATCH}", "data.num_workers=0", *overrides])
    return build_data(cfg)


class Task(ClassificationTask):
    """Something small with all that a NaN can get into: weights, momenta, running statistics, dropout's draws.

    at: the updates, as (attempt, update from 1), in which rank `rank` meets a NaN at `place`, in micro-batch 0. In
    place "omitted" nothing is wrong, and the step is left out: what a skipped update has to come to.
    """

    def __init__(
        self,
        at: set[tuple[int, int]] = frozenset(),
        place: str = "loss",
        rank: int = 0,
        accumulation: int = 1,
        **optimizer: Any,
    ) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.1), nn.Linear(3 * 32 * 32, 10))
        super().__init__(
            model=net,
            optimizer=Optimizer(**{"name": "adamw", "lr": 1e-2, "weight_decay": 0.05} | optimizer),
            schedule=Cosine("2st", 0.0, 0.0),
            plan=RunPlan(BATCH, 1, accumulation, UPDATES, 1),
            num_classes=10,
            seed=0,
            run_config={},
        )
        self.at, self.place, self.rank = at, place, rank
        self.now = False
        self.kept: dict[str, Tensor] = {}
        self.seen: list[tuple[int, int, tuple[int, ...]]] = []
        net[3].weight.register_hook(self.poison_gradient)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        update = (batch.position.attempt, self.global_step + 1)
        if batch.position.micro == 0:
            self.kept = {name: value.clone() for name, value in self.model.named_buffers()}
        self.seen.append((*update, tuple(batch.indices.tolist())))
        self.now = update in self.at and self.global_rank == self.rank and batch.position.micro == 0
        if self.now and self.place == "input":
            batch.images[1, 0, 5, 5] = float("nan")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.now and self.place == "loss":
            return loss * float("inf")
        return loss + float("nan") if self.now and self.place == "constant" else loss

    def poison_gradient(self, gradient: Tensor) -> Tensor:
        if not (self.now and self.place == "gradient"):
            return gradient
        gradient = gradient.clone()
        gradient[3, 7] = float("-inf")
        return gradient

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.place != "omitted" or not any(update == self.global_step + 1 for _, update in self.at):
            return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer_closure()
        self.guard.skipped = torch.tensor(False)
        for name, value in self.model.named_buffers():
            value.copy_(self.kept[name])


class Save(lightning.Callback):
    """Saves after some updates, to `newest`; raises after one."""

    def __init__(self, folder: Path, *updates: int, die: int = -1) -> None:
        self.folder, self.updates, self.die = folder, updates, die

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step in self.updates:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:03}.ckpt")
        if trainer.global_step == self.die:
            raise KeyError("killed")


def newest(folder: Path) -> Path | None:
    return max(folder.glob("*.ckpt"), default=None)


def run(
    task: ClassificationTask,
    folder: Path,
    *callbacks: lightning.Callback,
    data: ImageDataModule | None = None,
    accumulation: int = 1,
    guard: dict[str, int] | None = None,
    resume: Path | None = None,
    **options: Any,
) -> lightning.Trainer:
    folder.mkdir(exist_ok=True)
    trainer = lightning.Trainer(
        callbacks=[NonFinite(folder, **{"in_a_row": 3, "max_roll_backs": 2} | (guard or {})), *callbacks],
        limit_train_batches=UPDATES * accumulation,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=5.0,
        **{"max_epochs": 1, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0} | options,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data or digits(), ckpt_path=resume, weights_only=True)
    return trainer


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def everything(trainer: lightning.Trainer) -> dict[str, Any]:
    assert trainer.model is not None
    return {"model": trainer.lightning_module.model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}


def finite(state: Any) -> bool:
    if isinstance(state, dict | list | tuple):
        return all(map(finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, Tensor) or bool(torch.isfinite(state).all())


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


def make_and_train(
    folder: Path,
    at: set[tuple[int, int]],
    saves: tuple[int, ...],
    die: int = -1,
    optimizer: dict[str, Any] | None = None,
    **guard: int,
) -> tuple[lightning.Trainer, list[Task]]:
    """Train as the program does: everything anew after each roll-back, from the newest checkpoint."""
    data, tasks = digits(), []

    def once() -> lightning.Trainer:
        tasks.append(Task(at, "input", **(optimizer or {})))
        return run(tasks[-1], folder, Save(folder, *saves, die=die), data=data, guard=guard, resume=newest(folder))

    folder.mkdir(exist_ok=True)
    return train_with_roll_backs(once, folder=folder, data=data, writes=True), tasks


THREE = {(0, 5), (0, 6), (0, 7)}


def test_three_in_a_row_go_back_to_the_checkpoint_and_on_in_another_order(tmp_path: Path) -> None:
    trainer, (first, second) = make_and_train(tmp_path, THREE, (4,))
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]
    assert [(attempt, update) for attempt, update, _ in first.seen] == [(0, update) for update in range(1, 8)]
    assert [(attempt, update) for attempt, update, _ in second.seen] == [(1, update) for update in range(5, 11)]
    assert {indices for *_, indices in second.seen}.isdisjoint(indices for *_, indices in first.seen)
    assert trainer.callback_metrics["train/skipped"] == 0, "none was skipped on the way to these weights"
    assert [row[:2] for row in read_nonfinite(tmp_path / "nonfinite.csv")[::BATCH]] == sorted(THREE)


def test_without_a_checkpoint_it_goes_back_to_the_beginning(tmp_path: Path) -> None:
    _, (_, second) = make_and_train(tmp_path, THREE, ())
    assert [(attempt, update) for attempt, update, _ in second.seen] == [(1, u) for u in range(1, UPDATES + 1)]


@pytest.mark.parametrize("die", [3, 4, 6, 8])
def test_a_run_killed_before_or_after_going_back_ends_the_same(tmp_path: Path, die: int) -> None:
    """Update 6 is in the middle of the row; 8 comes after going back, with no checkpoint of the new attempt."""
    whole, _ = make_and_train(tmp_path / "whole", THREE, (2, 4))
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path / "cut", THREE, (2, 4), die=die)
    resumed, tasks = make_and_train(tmp_path / "cut", THREE, (2, 4))
    assert same(everything(whole), everything(resumed))
    assert read_roll_backs(tmp_path / "cut") == read_roll_backs(tmp_path / "whole")
    assert (tmp_path / "cut" / "nonfinite.csv").read_bytes() == (tmp_path / "whole" / "nonfinite.csv").read_bytes()
    assert len(tasks) == (1 if die == 8 else 2), "what failed is not done again after going back"


def test_a_row_that_a_checkpoint_lies_in_is_one_row(tmp_path: Path) -> None:
    """The checkpoint of update 6 has the weights of update 4: the run goes back to it, and counts from none again."""
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path, THREE, (6,), die=6)
    _, (first, second) = make_and_train(tmp_path, THREE, (6,))
    assert [seen[:2] for seen in first.seen] == [(0, 7)]
    assert [seen[:2] for seen in second.seen] == [(1, update) for update in range(7, UPDATES + 1)]
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]


def test_verdicts_that_come_late_count_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: kernels skip at once, and the run goes back some updates later, at the end of an epoch at last."""
    monkeypatch.setattr("iwin.train.callbacks.nonfinite.lag", lambda verdict: 2)
    late = {"optimizer": {"options": {"fused": True}}}
    whole, (first, second) = make_and_train(tmp_path / "whole", THREE, (4, 8), **late)
    assert [seen[1] for seen in first.seen] == list(range(1, 10)), "update 7 is judged after update 9"
    assert [seen[:2] for seen in second.seen] == [(1, 9), (1, 10)], "update 8 was sound, and so is its checkpoint"
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path / "cut", THREE, (4, 8), die=8, **late)
    resumed, tasks = make_and_train(tmp_path / "cut", THREE, (4, 8), **late)
    assert same(everything(whole)["model"], everything(resumed)["model"])
    assert [len(task.seen) for task in tasks] == [0, 2]
    at_the_end, _ = make_and_train(tmp_path / "end", {(0, 8), (0, 9), (0, 10)}, (7,), **late)
    assert read_roll_backs(tmp_path / "end") == [{"attempt": 0, "updates": [8, 9, 10]}]
    assert at_the_end.global_step == UPDATES


def test_a_sound_update_ends_the_row(tmp_path: Path) -> None:
    trainer, tasks = make_and_train(tmp_path, {(0, 2), (0, 3), (0, 5), (0, 6), (0, 8)}, ())
    assert len(tasks) == 1
    assert trainer.callback_metrics["train/skipped"] == 5


def test_after_the_last_roll_back_the_report_names_updates_and_samples(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as raised:
        make_and_train(tmp_path, {(attempt, u) for attempt in (0, 1) for u in (5, 6, 7)}, (4,), max_roll_backs=1)
    message = str(raised.value)
    assert "updates 5, 6, 7" in message
    assert "max_roll_backs=1" in message
    rows = [row for row in read_nonfinite(tmp_path / "nonfinite.csv") if row[0] == 1]
    assert len(rows) == 3 * BATCH
    assert all(row[5] in message for row in rows[:BATCH])
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]


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


def two_ranks(rank: int, port: int, folder: Path, results: Any) -> None:
    """A process of two: the same in all places, one after the other, with the NaN on rank 1 alone; then going back."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ddp = {"devices": 2, "strategy": "ddp"}
    out: dict[str, Any] = {}
    for place in (*PLACES, "omitted"):
        task = Task({(0, 4)}, place, rank=1, accumulation=2)
        state = everything(run(task, folder / place, accumulation=2, **ddp))
        # Plain arrays: tensors would be handed over as files of this process, which is about to end.
        weights = [parameter.detach().numpy() for parameter in task.model.parameters()]
        momenta = [entry["exp_avg"].numpy() for entry in state["optimizer"]["state"].values()]
        out[place] = [*weights, *momenta]
    data, tasks, back = digits(), [], folder / "back"

    def once() -> lightning.Trainer:
        tasks.append(Task(THREE, "input", rank=1))
        return run(tasks[-1], back, Save(back, 4), data=data, resume=newest(back), **ddp)

    back.mkdir(exist_ok=True)
    train_with_roll_backs(once, folder=back, data=data, writes=rank == 0)
    out["back"] = [parameter.detach().numpy() for parameter in tasks[-1].model.parameters()]
    out["seen"] = [seen[:2] for seen in tasks[-1].seen]
    results.put((rank, out))


def in_two_processes(function: Callable[..., None], *args: Any, timeout_s: float = 240) -> dict[int, Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["iwin.train.fit", "lightning", "timm.optim"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.Queue()
    ranks = [context.Process(target=function, args=(rank, port, *args, results), daemon=True) for rank in (0, 1)]
    try:
        for process in ranks:
            process.start()
        return dict(results.get(timeout=timeout_s) for _ in ranks)
    finally:
        for process in ranks:
            process.join(timeout=20)
            process.kill()


@pytest.mark.slow
def test_a_nan_on_one_of_two_ranks_is_in_the_weights_of_neither(tmp_path: Path) -> None:
    results = in_two_processes(two_ranks, tmp_path)
    for place in PLACES:
        for one, other, omitted in zip(*(results[rank][place] for rank in (0, 1)), results[0]["omitted"], strict=True):
            assert (one == other).all(), f"{place}: the ranks differ"
            assert (one == omitted).all(), f"{place}: not as if the update had been left out"
        rows = read_nonfinite(tmp_path / place / "nonfinite.csv")
        assert len({row[5] for row in rows}) == 2 * 2 * BATCH
        assert {row[1] for row in rows} == {4}
        bad = {row[2:4] for row in rows if not torch.isfinite(torch.tensor(row[4]))}
        assert bad == (set() if place == "gradient" else {(1, 0)}), "rank 1, micro-batch 0, and no other"
    assert results[0]["seen"] == results[1]["seen"] == [(1, update) for update in range(5, UPDATES + 1)]
    assert all((one == other).all() for one, other in zip(results[0]["back"], results[1]["back"], strict=True))
    assert read_roll_backs(tmp_path / "back") == [{"attempt": 0, "updates": [5, 6, 7]}]


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
