from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iwin.data.order import GlobalShuffle, order
from iwin.data.sampler import EvalSampler, TrainSampler
from iwin.errors import ConfigError


def tickets(length: int, batch_size: int, world: int, rank: int, accumulation: int, **options):
    sampler = TrainSampler(
        GlobalShuffle(length),
        batch_size=batch_size,
        world=world,
        rank=rank,
        accumulation=accumulation,
        seed=3,
        **options,
    )
    made = list(sampler)
    assert len(made) == len(sampler) - sampler.start_step * accumulation
    return made


def updates(length: int, batch_size: int, world: int, accumulation: int) -> list[set[int]]:
    """The samples of each update, over all ranks."""
    found: dict[int, set[int]] = {}
    for rank in range(world):
        for ticket in tickets(length, batch_size, world, rank, accumulation):
            own = set(ticket.indices.tolist())
            assert not own & found.setdefault(ticket.position.step, set())
            found[ticket.position.step] |= own
    return [found[step] for step in sorted(found)]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 300), parts=st.permutations([1, 1, 2, 3, 4]))
def test_an_updates_samples_depend_on_the_global_batch_alone(length: int, parts: list[int]) -> None:
    whole = int(np.prod(parts))
    if length < whole:
        with pytest.raises(ConfigError):
            updates(length, whole, 1, 1)
        return
    visited = order(3, 0, 0, length)
    expected = [set(visited[b * whole : (b + 1) * whole].tolist()) for b in range(length // whole)]
    batch, world, accumulation, *rest = parts
    assert updates(length, batch * int(np.prod(rest)), world, accumulation) == expected
    assert updates(length, whole, 1, 1) == expected


def test_positions_run_through_the_micro_batches_of_each_update() -> None:
    made = tickets(50, 4, 2, 1, 3, attempt=2, epoch=5)
    assert [ticket.position for ticket in made] == [(2, 5, step, micro) for step in range(2) for micro in range(3)]
    assert all(len(ticket.indices) == 4 for ticket in made)


def test_the_order_is_a_permutation_of_its_own_for_each_seed_attempt_and_epoch() -> None:
    orders = [order(*key, 100).tolist() for key in itertools.product((0, 1), (0, 1), (0, 1))]
    assert all(sorted(one) == list(range(100)) for one in orders)
    assert len({tuple(one) for one in orders}) == 8
    assert order(1, 0, 1, 100).tolist() == orders[5]


def test_the_order_is_what_it_was() -> None:
    # Frozen: a run that is resumed under a newer version must find the same samples.
    assert order(0, 0, 0, 12).tolist() == [8, 0, 3, 7, 9, 6, 2, 5, 1, 4, 11, 10]


def test_starting_inside_an_epoch_gives_its_tail_and_then_whole_epochs() -> None:
    whole = tickets(100, 4, 1, 0, 2, epoch=3)
    sampler = TrainSampler(
        GlobalShuffle(100), batch_size=4, world=1, rank=0, accumulation=2, seed=3, epoch=3, start_step=5
    )
    sampler.set_epoch(3)
    tail = list(sampler)
    assert [t.position for t in tail] == [t.position for t in whole[10:]]
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(tail, whole[10:], strict=True))
    assert len(sampler) == len(whole)
    sampler.set_epoch(4)
    assert next(iter(sampler)).position == (0, 4, 0, 0)
    assert len(list(sampler)) == len(whole)


def test_an_iterator_keeps_the_epoch_it_was_made_in() -> None:
    sampler = TrainSampler(GlobalShuffle(20), batch_size=4, world=1, rank=0, accumulation=1, seed=3, epoch=1)
    made = iter(sampler)
    sampler.set_epoch(2)
    assert next(made).position.epoch == 1


def test_without_reshuffling_every_epoch_visits_the_samples_of_the_first() -> None:
    first, second = (tickets(20, 4, 1, 0, 1, epoch=epoch, reshuffle=False) for epoch in (0, 6))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(first, second, strict=True))
    assert second[0].position.epoch == 6


def test_lightning_finds_set_epoch_on_the_sampler_of_the_sampler() -> None:
    sampler = TrainSampler(GlobalShuffle(20), batch_size=4, world=1, rank=0, accumulation=1, seed=3)
    assert sampler.sampler is sampler


@pytest.mark.parametrize(
    ("length", "batch_size", "message"),
    [
        (100, 0, "data.batch_size must be a whole number of at least 1, got 0"),
        (47, 8, r"48 .*batch_size 8 x 2 .* x 3.*47 .*to 7 or less"),
        (5, 1, "Use fewer"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_numbers(length: int, batch_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSampler(GlobalShuffle(length), batch_size=batch_size, world=2, rank=0, accumulation=3, seed=0)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 200), world=st.integers(1, 9), batch_size=st.integers(1, 40))
def test_evaluation_visits_every_sample_exactly_once(length: int, world: int, batch_size: int) -> None:
    samplers = [EvalSampler(length, batch_size=batch_size, world=world, rank=rank) for rank in range(world)]
    made = [list(sampler) for sampler in samplers]
    assert [len(one) for one in made] == [len(sampler) for sampler in samplers]
    visited = [int(i) for one in made for ticket in one for i in ticket.indices]
    assert sorted(visited) == list(range(length))
    assert all(1 <= len(ticket.indices) <= batch_size for one in made for ticket in one)
    sizes = [sum(len(ticket.indices) for ticket in one) for one in made]
    assert max(sizes) - min(sizes) <= 1


def test_an_eval_batch_size_below_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="eval_batch_size must be a whole number of at least 1, got 0"):
        EvalSampler(5, batch_size=0, world=1, rank=0)
