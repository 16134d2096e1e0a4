"""Rates are the recipe's, update by update; durations mean what they say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iwin.durations import run_epochs, to_updates
from iwin.errors import ConfigError
from iwin.train.run_plan import accumulated
from iwin.train.schedule import Cosine


def rates(schedule: Cosine, *, base: float, per_epoch: int, total: int, scale: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base * scale)
    scheduler = schedule.build(optimizer, per_epoch=per_epoch, total=total, scale=scale)
    found = []
    for update in range(total):
        scheduler.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_reference_schedule_is_reached(reference: Path) -> None:
    rows = list(csv.DictReader((reference / "lr_cosine_e30_w20_i10_base5e-4.csv").open()))
    schedule = Cosine(warmup="20ep", warmup_lr=5e-7, min_lr=5e-6)
    ours = rates(schedule, base=5e-4, per_epoch=10, total=300, scale=1.0)
    assert len(rows) == 300
    for row, rate in zip(rows, ours, strict=True):
        assert rate == pytest.approx(float(row["lr"]), rel=1e-9), row["step"]


def test_every_rate_scales_with_the_global_batch() -> None:
    schedule = Cosine(warmup="20%", warmup_lr=5e-7, min_lr=5e-6)
    one = rates(schedule, base=5e-4, per_epoch=5, total=50, scale=1.0)
    eight = rates(schedule, base=5e-4, per_epoch=5, total=50, scale=8.0)
    assert eight == pytest.approx([8 * rate for rate in one])


@pytest.mark.parametrize(
    ("duration", "updates"), [("20ep", 200), ("0ep", 0), ("2.5ep", 25), ("5%", 15), ("2000st", 2000), ("0st", 0)]
)
def test_durations(duration: str, updates: int) -> None:
    assert to_updates(duration, per_epoch=10, total=300) == updates


@pytest.mark.parametrize("duration", ["20", "20 epochs", "5e", "-3ep", "1.5st", "", "ep"])
def test_what_is_no_duration_is_an_error(duration: str) -> None:
    with pytest.raises(ConfigError, match=r"20ep|whole numbers"):
        to_updates(duration, per_epoch=10, total=300)


def test_a_warmup_as_long_as_the_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="20ep is 200 updates and the run has 30"):
        Cosine("20ep", 5e-7, 5e-6).warmup_updates(per_epoch=10, total=30)


@pytest.mark.parametrize(
    ("duration", "epochs"), [("3ep", 3), ("30st", 3), ("10st", 1), ("0.5ep", None), ("25st", None), ("50%", None)]
)
def test_a_run_is_whole_epochs(duration: str, epochs: int | None) -> None:
    if epochs is not None:
        assert run_epochs(duration, per_epoch=10) == epochs
    else:
        with pytest.raises(ConfigError, match=f"duration={duration}"):
            run_epochs(duration, per_epoch=10)


@given(world=st.integers(1, 16), batch_size=st.integers(1, 64), accumulation=st.integers(1, 8), spare=st.integers(0, 3))
def test_a_global_batch_is_reached_exactly_or_refused(
    world: int, batch_size: int, accumulation: int, spare: int
) -> None:
    wanted = world * batch_size * accumulation + spare
    if wanted % (world * batch_size) == 0:
        assert accumulated(wanted, batch_size, world, 1) * world * batch_size == wanted
        return
    with pytest.raises(ConfigError, match=f"global_batch={wanted}") as refusal:
        accumulated(wanted, batch_size, world, 1)
    advice = re.search(r"set data.batch_size to (.*)", str(refusal.value))
    for size in re.findall(r"\d+", advice[1]) if advice else []:
        assert wanted % (world * int(size)) == 0


def test_a_global_batch_and_a_given_accumulation_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="trainer.accumulate_grad_batches=2"):
        accumulated(64, 8, 2, 2)
