"""Rates are the recipe's, update by update; durations mean what they say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from iwin.errors import ConfigError
from iwin.train.schedule import Cosine, to_updates


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
