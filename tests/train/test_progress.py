"""What a run shows: the numbers are right, few, and never cost a look at the device."""

from __future__ import annotations

import io
import re
from typing import Any, ClassVar

import lightning.pytorch as L
import pytest
import torch
from rich.console import Console
from torch import Tensor

from iwin.batch import Batch, Position
from iwin.train.callbacks.progress import Pace, Progress


class Clock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Task(L.LightningModule):
    """A training step takes 2 s of the clock, a validation step 50 s; accuracies are as given."""

    def __init__(self, clock: Clock, top1: tuple[float, ...]) -> None:
        super().__init__()
        self.clock, self.top1 = clock, top1
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.clock.now += 2.0
        self.log("train/loss", 0.5122)
        self.log("lr", 9.123e-4)
        return self.layer(batch.images[:, 0, 0, :1]).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.clock.now += 50.0
        self.log("val/top1", self.top1[self.current_epoch], batch_size=1)
        self.log("val/top5", 0.999, batch_size=1)
        self.log("val/loss", 0.31249, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def batches(count: int) -> torch.utils.data.DataLoader[Batch]:
    """`count` batches of 100 images."""
    batch = Batch(torch.zeros(100, 3, 1, 1), torch.zeros(100).long(), torch.arange(100), Position(0, 0, 0, 0))
    return torch.utils.data.DataLoader([batch] * count, batch_size=None)  # type: ignore[arg-type]


def trainer_with(progress: Progress, **settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[progress],
        **settings,
    )


def fit(every_s: float, top1: tuple[float, ...] = (0.5, 0.97222, 0.9), **settings: Any) -> list[str]:
    clock, out = Clock(), io.StringIO()
    progress = Progress(every_s=every_s, clock=clock, console=Console(file=out))
    trainer_with(progress, max_epochs=len(top1), **settings).fit(Task(clock, top1), batches(10), batches(2))
    return out.getvalue().splitlines()


pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_line_says_where_the_run_is_and_how_long_it_takes() -> None:
    lines = fit(every_s=0.0)
    assert lines[0] == "epoch 1/3  update 1/30  loss 0.512  lr 9.1e-04"  # no speed can be told from one update
    assert lines[1] == "epoch 1/3  update 2/30  loss 0.512  lr 9.1e-04  50 images/s  0:00:56 left"


def test_validations_cost_time_but_no_images_per_second() -> None:
    lines = fit(every_s=0.0)
    update_11 = next(line for line in lines if "update 11/" in line)
    # 19 updates of 2 s, and 100 s of validation spread over the 10 updates that the clock has seen
    assert update_11.endswith("50 images/s  0:03:48 left")


def test_each_validation_has_its_line_and_the_best_is_marked() -> None:
    lines = [line for line in fit(every_s=1e9) if "val" in line]
    assert lines == [
        "epoch 1/3  val top-1 50.00 %  top-5 99.90 %  loss 0.312  best",
        "epoch 2/3  val top-1 97.22 %  top-5 99.90 %  loss 0.312  best",
        "epoch 3/3  val top-1 90.00 %  top-5 99.90 %  loss 0.312",
    ]


def test_at_most_one_line_in_the_given_time_and_one_at_the_end() -> None:
    lines = [line for line in fit(every_s=5.0, limit_val_batches=0) if "update" in line]
    updates = [int(re.findall(r"update (\d+)/30", line)[0]) for line in lines]
    assert updates == [*range(1, 30, 3), 30]


def test_updates_count_optimizer_steps_not_micro_batches() -> None:
    lines = fit(every_s=1e9, accumulate_grad_batches=4)  # ten micro-batches: updates of 4, 4 and 2
    assert lines[-1].startswith("epoch 3/3  update 9/9  ")


def test_a_limit_in_steps_is_the_end_of_the_run() -> None:
    assert fit(every_s=1e9, max_steps=12)[-1].startswith("epoch 2/3  update 12/12  ")


def test_metrics_are_read_only_when_something_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    metrics = L.Trainer.callback_metrics.fget  # type: ignore[attr-defined]

    def count(trainer: L.Trainer) -> dict[str, Tensor]:
        nonlocal reads
        reads += 1
        return metrics(trainer)

    monkeypatch.setattr(L.Trainer, "callback_metrics", property(count))
    lines = fit(every_s=20.0)
    assert len(lines) < 15
    assert reads == len(lines)


def test_the_sanity_check_shows_nothing() -> None:
    clock, out = Clock(), io.StringIO()
    trainer = trainer_with(Progress(clock=clock, console=Console(file=out)), max_epochs=1, num_sanity_val_steps=2)
    trainer.fit(Task(clock, (0.5,)), batches(1), batches(2))
    assert out.getvalue().count("val top-1") == 1


def test_images_of_all_ranks_count_and_other_ranks_are_silent() -> None:
    class TwoRanks:
        """What Progress asks of a Trainer."""

        world_size, global_step, current_epoch, max_epochs, max_steps = 2, 0, 0, 1, -1
        num_training_batches, accumulate_grad_batches = 10, 1
        callback_metrics: ClassVar[dict[str, Tensor]] = {}

        def __init__(self, rank: int) -> None:
            self.is_global_zero = rank == 0

    shown = []
    for rank in range(2):
        clock, out, trainer = Clock(), io.StringIO(), TwoRanks(rank)
        progress = Progress(every_s=0.0, clock=clock, console=Console(file=out))
        progress.setup(trainer, None, "fit")  # type: ignore[arg-type]
        progress.on_train_start(trainer, None)  # type: ignore[arg-type]
        for _ in range(2):
            trainer.global_step += 1
            clock.now += 2.0
            progress.on_train_batch_end(trainer, None, None, next(iter(batches(1))), 0)  # type: ignore[arg-type]
        progress.print("a line of somebody else")
        shown.append(out.getvalue())
    assert shown[0].splitlines()[-1] == "epoch 1/1  update 2/10  100 images/s  0:00:16 left"
    assert shown[1] == ""


def test_validate_alone_shows_its_way_and_its_result() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(every_s=60.0, clock=clock, console=Console(file=out))
    trainer_with(progress).validate(Task(clock, (0.9,)), batches(5), verbose=False)
    assert out.getvalue().splitlines() == [
        "validation 1/5",
        "validation 3/5  2 images/s  0:01:40 left",
        "validation 5/5  2 images/s  0:00:00 left",
        "validation top-1 90.00 %  top-5 99.90 %  loss 0.312",
    ]
    assert progress.state_dict() == Progress().state_dict()  # an evaluation is no validation of a run


def test_a_terminal_of_80_columns_gets_a_bar_with_all_numbers_and_the_results_above() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None, legacy_windows=False, _environ={})
    progress = Progress(clock=clock, console=console)
    trainer_with(progress, max_epochs=2).fit(Task(clock, (0.5, 0.9722)), batches(10), batches(2))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    assert "epoch 1/2  val top-1 50.00 %  top-5 99.90 %  loss 0.312  best" in lines
    assert "loss 0.512  lr 9.1e-04  top-1 97.22 %  50 images/s" in lines
    assert any(re.fullmatch(r"epoch 2/2  update 20/20 ━+ 0:00:00 left", line) for line in lines)
    assert any(re.fullmatch(r"validation 2/2 +━+ 0:00:00 left", line) for line in lines)
    assert max(map(len, lines)) <= 80
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_an_exception_gives_the_terminal_back() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(clock=clock, console=Console(file=out, force_terminal=True, _environ={}))

    class Breaks(Task):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        trainer_with(progress, max_epochs=1, num_sanity_val_steps=0).fit(Breaks(clock, (0.5,)), batches(1), batches(1))
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def test_the_best_accuracy_survives_a_resume() -> None:
    progress = Progress()
    progress.best_top1 = 0.8
    resumed = Progress()
    resumed.load_state_dict(progress.state_dict())
    assert resumed.best_top1 == 0.8


def test_the_pace_is_of_the_recent_window() -> None:
    clock = Clock()
    pace = Pace(clock, window_s=10.0)
    for seconds in [1.0] * 30 + [2.0] * 6:
        clock.now += seconds
        pace.add(images=8, steps=1)
    assert pace.images_per_s == pytest.approx(4.0)
    assert pace.seconds_for(5) == pytest.approx(10.0)


def test_no_end_no_time_left() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.images_per_s is None
    assert pace.seconds_for(5) is None
    for _ in range(3):
        clock.now += 1.0
        pace.add(images=8, steps=1)
    assert pace.seconds_for(float("inf")) is None
