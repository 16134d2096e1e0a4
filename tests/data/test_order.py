from __future__ import annotations

import numpy as np
import pytest

from iwin.data.order import BlockShuffle, GlobalShuffle, neighbour_distance, order

ENDS = np.cumsum([7, 1, 5, 9, 4, 6, 8])


def test_an_order_takes_4_bytes_a_sample() -> None:
    assert order(0, 0, 0, 10).dtype == np.int32
    assert BlockShuffle(ENDS, 2).order(0, 0, 0).dtype == np.int32


@pytest.mark.parametrize("open_shards", [1, 2, 3, 7, 100])
def test_a_block_shuffle_visits_each_sample_once_block_after_block(open_shards: int) -> None:
    shuffle = BlockShuffle(ENDS, open_shards)
    starts = [0, *ENDS[:-1]]
    visited = shuffle.order(3, 0, 1).tolist()
    assert sorted(visited) == list(range(40)) == list(range(len(shuffle)))
    for block in shuffle.blocks(3, 0, 1):
        members = sorted(i for shard in block for i in range(starts[shard], ENDS[shard]))
        assert sorted(visited[: len(members)]) == members
        assert len(block) == open_shards or len(visited) == len(members)
        visited = visited[len(members) :]


def test_each_seed_attempt_and_epoch_has_blocks_and_an_order_of_its_own() -> None:
    shuffle = BlockShuffle(ENDS, 2)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({tuple(shuffle.order(*key).tolist()) for key in keys}) == 4
    assert len({tuple(np.concatenate(shuffle.blocks(*key)).tolist()) for key in keys}) == 4


def test_the_order_of_blocks_is_what_it_was() -> None:
    # Frozen: a run that is resumed under a newer version must find the same samples.
    assert BlockShuffle(np.array([3, 6, 8, 12]), 2).order(0, 0, 0).tolist() == [0, 1, 4, 3, 2, 5, 9, 11, 6, 8, 7, 10]


def test_more_open_shards_mix_better_and_all_of_them_as_well_as_a_global_shuffle() -> None:
    ends = np.arange(1, 101) * 100
    distances = [neighbour_distance(BlockShuffle(ends, count).order(0, 0, 0)) for count in (1, 4, 100)]
    assert distances[0] < 0.02
    assert 0.2 < distances[1] < 0.3
    assert distances[2] == pytest.approx(1 / 3, abs=0.01)
    assert neighbour_distance(GlobalShuffle(10_000).order(0, 0, 0)) == pytest.approx(1 / 3, abs=0.01)
    assert neighbour_distance(np.arange(10_000)) == pytest.approx(1e-4)
