"""Repeated augmentation: which samples an update then has, where their repetitions stand, and what each draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_module import SaveAt, fit, trainer
from timm.data.distributed_sampler import RepeatAugSampler

from iwin.batch import Batch, Position
from iwin.data.encoded import Encoded
from iwin.data.module import ImageDataModule
from iwin.data.order import GlobalShuffle, order
from iwin.data.sampler import Ticket, TrainSampler
from iwin.errors import ConfigError
from iwin.runtime import seed_at

Make = Callable[..., ImageDataModule]
Images = list[tuple[int, int]]  # a sample, and which of its repetitions


def tickets(length: int, parts: tuple[int, int, int], rank: int, repeats: int, **options: Any) -> list[Ticket]:
    batch_size, world, accumulation = parts
    sizes = {"batch_size": batch_size, "world": world, "rank": rank, "accumulation": accumulation}
    return list(TrainSampler(GlobalShuffle(length), **sizes, seed=3, repeats=repeats, **options))


def images(ticket: Ticket) -> Images:
    return list(zip(ticket.indices.tolist(), ticket.repetitions.tolist(), strict=True))


def updates(length: int, parts: tuple[int, int, int], repeats: int) -> list[Images]:
    """The images of each update, micro-batch after micro-batch, rank after rank."""
    made: dict[int, Images] = {}
    for rank in range(parts[1]):
        for ticket in tickets(length, parts, rank, repeats):
            made.setdefault(ticket.position.step, []).extend(images(ticket))
    return [made[step] for step in sorted(made)]


PARTS = st.permutations([1, 2, 2, 3]).map(lambda four: (four[0], four[1], four[2] * four[3]))


@settings(max_examples=80, deadline=None)
@given(length=st.integers(12, 150), parts=PARTS, repeats=st.integers(1, 7))
def test_an_update_is_a_slice_of_the_order_with_every_sample_repeated(
    length: int, parts: tuple[int, int, int], repeats: int
) -> None:
    repeated = [(sample, again) for sample in order(3, 0, 0, length).tolist() for again in range(repeats)]
    made = updates(length, parts, repeats)
    assert len(made) == length // 12
    for step, update in enumerate(made):
        assert Counter(update) == Counter(repeated[12 * step : 12 * (step + 1)])
        assert [again for _, again in update] == sorted(again for _, again in update)
        counts = sorted(Counter(sample for sample, _ in update).values(), reverse=True)
        assert max(counts) <= repeats
        assert sum(count < repeats for count in counts) <= (2 if 12 % repeats else 0)
    assert made == updates(length, (12, 1, 1), repeats)
    visited = {sample for update in made for sample, _ in update}
    assert visited == set(order(3, 0, 0, length)[: -(-12 * len(made) // repeats)].tolist())


@settings(max_examples=40, deadline=None)
@given(length=st.integers(12, 100), parts=PARTS, repeats=st.sampled_from([2, 3, 4, 6, 12]))
def test_no_micro_batch_has_a_sample_twice_where_there_are_enough_of_them(
    length: int, parts: tuple[int, int, int], repeats: int
) -> None:
    _, world, accumulation = parts
    most = max(
        max(Counter(ticket.indices.tolist()).values())
        for rank in range(world)
        for ticket in tickets(length, parts, rank, repeats)
    )
    if world * accumulation >= repeats:
        assert most == 1
    assert most <= -(-repeats // (world * accumulation)) + 1


@settings(max_examples=30, deadline=None)
@given(world=st.sampled_from([1, 2, 4]), repeats=st.integers(1, 5))
def test_an_update_has_the_samples_that_timms_sampler_gives_it(world: int, repeats: int) -> None:
    class InOrder(GlobalShuffle):
        def order(self, seed: int, attempt: int, epoch: int) -> np.ndarray:
            return np.arange(self.length, dtype=np.int32)

    keys = {"batch_size": 4, "world": world, "accumulation": 1, "seed": 0, "repeats": repeats}
    mine = [TrainSampler(InOrder(64), rank=rank, **keys) for rank in range(world)]
    timms = [
        list(RepeatAugSampler(range(64), world, rank, shuffle=False, num_repeats=repeats)) for rank in range(world)
    ]
    for step, parts in enumerate(zip(*mine, strict=True)):
        theirs = [index for one in timms for index in one[4 * step : 4 * step + 4]]
        assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == sorted(theirs)


@pytest.mark.parametrize("start", range(5))
def test_starting_inside_an_epoch_gives_its_tail(start: int) -> None:
    whole = tickets(50, (2, 2, 3), 1, 5)
    tail = tickets(50, (2, 2, 3), 1, 5, start_step=start)
    assert [(t.position, images(t)) for t in tail] == [(t.position, images(t)) for t in whole[3 * start :]]


def test_repetition_0_draws_what_is_drawn_without_and_each_other_draws_its_own(noise: Make) -> None:
    dataset = noise(seed=7).train_dataset

    def draws(image: Encoded) -> np.ndarray:
        return np.frombuffer(np.random.rand(3), np.uint8).reshape(2, 4, 3)  # noqa: NPY002 - what seed_at seeds

    dataset.transform = draws
    made = dataset.__getitems__(Ticket(Position(1, 4, 0, 0), np.array([9, 9, 9, 8]), np.array([0, 1, 2, 1])))
    for row, place in enumerate([(1, 4, 9), (1, 4, 9, 1), (1, 4, 9, 2), (1, 4, 8, 1)]):
        seed_at(7, "augment", *place)
        expected = np.frombuffer(np.random.rand(3), np.uint8)  # noqa: NPY002
        assert np.array_equal(made.images[row].permute(1, 2, 0).reshape(-1).numpy(), expected)


@pytest.mark.parametrize(("workers", "accumulation", "cut"), [(0, 1, 5), (2, 1, 11), (2, 2, 3), (0, 3, 10)])
def test_a_run_cut_anywhere_goes_on_as_if_it_had_not_been(
    noise: Make, tmp_path: Path, workers: int, accumulation: int, cut: int
) -> None:
    path, options = tmp_path / "cut.ckpt", {"accumulation": accumulation, "epochs": 2}
    plain = fit(noise("deit", repeats=3), SaveAt(path, batch=cut), **options)
    again = fit(noise("deit", repeats=3, num_workers=workers), resume=path, **options)
    assert again.seen == plain.seen[cut // accumulation * accumulation :]
    assert torch.equal(again.layer.weight, plain.layer.weight)
    assert len(plain.seen) == len(fit(noise("deit"), **options).seen)


def test_inside_an_epoch_other_repetitions_are_refused_and_at_its_end_allowed(noise: Make, tmp_path: Path) -> None:
    inside, end = tmp_path / "inside.ckpt", tmp_path / "end.ckpt"
    fit(noise(repeats=3), SaveAt(inside, batch=4), SaveAt(end, epoch=0), epochs=1)
    with pytest.raises(ConfigError, match=r"how often a sample is repeated \(data.repeats\) was 3 and is 1"):
        fit(noise(), resume=inside)
    assert len(fit(noise(), resume=end, epochs=2).seen) == 11


def test_a_checkpoint_from_before_there_were_repetitions_had_none(noise: Make, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    plain = fit(noise(), SaveAt(path, batch=4), epochs=1)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["ImageDataModule"]["repeats"]
    torch.save(checkpoint, path)
    assert fit(noise(), resume=path, epochs=1).seen == plain.seen[4:]
    with pytest.raises(ConfigError, match=r"\(data.repeats\) was 1 and is 2"):
        fit(noise(repeats=2), resume=path, epochs=1)


def test_the_repetitions_of_an_image_look_different(digits: Make) -> None:
    data = digits("simple", repeats=4)
    data.trainer = trainer()
    batch: Batch = next(iter(data.train_dataloader()))
    for index in batch.indices.unique():
        assert len({image.numpy().tobytes() for image in batch.images[batch.indices == index]}) == 4


@pytest.mark.parametrize("repeats", [0, 1.5, True, None])
def test_what_is_no_number_of_repetitions_is_refused(digits: Make, repeats: object) -> None:
    with pytest.raises(ConfigError, match=f"data.repeats must be a whole number of at least 1, got {repeats}"):
        digits(repeats=repeats)
