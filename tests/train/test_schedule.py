"""Rates are the recipe's, update by update; durations mean what they say."""

from __future__ import annotations

import csv
import math
import random
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from iwin.conf import conf_dir, options
from iwin.durations import run_epochs, to_updates
from iwin.errors import ConfigError
from iwin.train.run_plan import accumulated
from iwin.train.schedule import Constant, Cosine, Schedule, Step, WarmupStableDecay


def rates(schedule: Schedule, *, base: float, per_epoch: int, total: int, scale: float) -> list[float]:
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


def configured(name: str) -> Schedule:
    return instantiate(OmegaConf.load(conf_dir() / "schedule" / f"{name}.yaml"))


@pytest.mark.parametrize("name", options("schedule"))
def test_every_rate_scales_with_the_global_batch(name: str) -> None:
    lengths = {"base": 5e-4, "per_epoch": 5, "total": 300}
    one, eight = (rates(configured(name), scale=scale, **lengths) for scale in (1.0, 8.0))
    assert eight == pytest.approx([8 * rate for rate in one])


@pytest.mark.parametrize("name", options("schedule"))
def test_every_schedule_begins_with_a_linear_warm_up(name: str) -> None:
    schedule = configured(name)
    found = rates(schedule, base=5e-4, per_epoch=5, total=300, scale=1.0)
    length = schedule.warmup_updates(per_epoch=5, total=300)
    for update in range(length):
        assert found[update] == pytest.approx(5e-7 + (5e-4 - 5e-7) * update / length)
    assert found[length] == 5e-4, "the warm-up is a prefix: what follows begins at its own beginning"


@pytest.mark.parametrize("name", options("schedule"))
def test_a_rate_depends_on_its_update_alone(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    scheduler = configured(name).build(optimizer, per_epoch=5, total=300, scale=1.0)
    in_order = rates(configured(name), base=5e-4, per_epoch=5, total=300, scale=1.0)
    for update in random.Random(0).sample(range(300), 60):
        scheduler.step_update(update)
        assert optimizer.param_groups[0]["lr"] == in_order[update]


def test_the_shapes_are_what_they_say() -> None:
    """Update by update, after a warm-up of 20 updates, in a run of 100 of 10 an epoch."""
    lengths = {"base": 1.0, "per_epoch": 10, "total": 100, "scale": 1.0}
    constant = rates(Constant("2ep", 0.0), **lengths)
    step = rates(Step("2ep", 0.0, "3ep", 0.1), **lengths)
    cosine = rates(Cosine("2ep", 0.0, 0.2), **lengths)
    decaying = rates(WarmupStableDecay("2ep", 0.0, "40%", 0.2), **lengths)
    for update in range(20, 100):
        assert constant[update] == 1
        falls = sum(1 for begun in (50, 80) if update >= begun)
        assert step[update] == pytest.approx(0.1**falls)
        assert cosine[update] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * (update - 20) / 80)))
        share = max(0, update - 60) / 40
        assert decaying[update] == pytest.approx(0.2 + 0.8 * (1 - math.sqrt(share)))


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Cosine("10%", 1.2e-5, 1.2e-4), "10 updates up from 1.5e-06, cosine down to 1.5e-05"),
        (Cosine("0st", 1.2e-5, 0.0), "no warm-up, cosine down to 0"),
        (Constant("2ep", 8e-6), "20 updates up from 1e-06, then constant"),
        (Step("2ep", 8e-6, "3ep", 0.1), "20 updates up from 1e-06, then x 0.1 every 30 updates"),
        (WarmupStableDecay("2ep", 8e-6, "20%", 8e-5), "constant, in the last 20 down to 1e-05 as 1 - sqrt"),
    ],
)
def test_a_schedule_tells_the_numbers_in_force(schedule: Schedule, text: str) -> None:
    assert schedule.describe(per_epoch=10, total=100, scale=0.125).endswith(text)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            WarmupStableDecay("2ep", 0.0, "90%", 0.0),
            r"schedule\.decay=90% is 90 updates, and the warm-up leaves 80 of 100",
        ),
        (WarmupStableDecay("2ep", 0.0, "0st", 0.0), r"schedule\.decay=0st is 0 updates"),
        (WarmupStableDecay("10ep", 0.0, "0st", 0.0), r"schedule\.warmup=10ep is 100 updates and the run has 100"),
        (Step("2ep", 0.0, "0.01ep", 0.1), r"schedule\.every=0\.01ep is less than an update"),
        (Constant("100%", 0.0), r"schedule\.warmup=100% is 100 updates"),
    ],
)
def test_what_does_not_fit_the_run_is_found_before_it(schedule: Schedule, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule.check(per_epoch=10, total=100)


def test_a_short_run_decays_in_its_last_update() -> None:
    """In a run of two updates, debug=smoke, a fifth rounds to none."""
    assert WarmupStableDecay("0st", 0.0, "20%", 0.0).decay_updates(per_epoch=2, total=2) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine("20", 0.0, 0.0), r"schedule\.warmup=20 is no duration"),
        (lambda: Constant("2ep", -1.0), r"schedule\.warmup_lr must be a number of at least 0"),
        (lambda: Cosine("2ep", 0.0, -1.0), r"schedule\.min_lr must be"),
        (lambda: Step("2ep", 0.0, "30", 0.1), r"schedule\.every=30 is no duration"),
        (lambda: Step("2ep", 0.0, "30ep", 0), r"schedule\.factor must be above 0 and at most 1"),
        (lambda: WarmupStableDecay("2ep", 0.0, "a fifth", 0.0), r"schedule\.decay=a fifth is no duration"),
    ],
)
def test_what_is_no_schedule_is_an_error(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


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
    with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches=2"):
        accumulated(64, 8, 2, 2)
