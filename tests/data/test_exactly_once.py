"""Each sample exactly once an epoch, in one order, whatever makes the batches and wherever it is interrupted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded
from torch.utils.data import DataLoader

from iwin.data.encoded import Encoded
from iwin.data.module import hand_over
from iwin.data.order import BlockShuffle, GlobalShuffle, Shuffle
from iwin.data.sampler import EvalSampler, TrainSampler
from iwin.data.shards import ShardDataset, ShardFolder
from iwin.data.writer import DataSetWriter, Sample

SAMPLES, BATCH = 61, 2
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
WORLDS, WORKERS, ACCUMULATION = (1, 2, 3, 4), (0, 1, 3), (1, 2, 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """61 samples in 9 shards; made into a pixel each."""
    root = tmp_path_factory.mktemp("set")
    pixel = encoded(Image.new("RGB", (1, 1)))
    with DataSetWriter(root, classes=["a"], about={}) as writer:
        writer.write_split("train", (Sample(f"k{i}", pixel, "png", 0) for i in range(SAMPLES)), samples_per_shard=7)

    def one_pixel(image: Encoded) -> np.ndarray:
        return image.resized(None, (1, 1), "nearest")

    return ShardDataset(ShardFolder(root), "train-*.tar", one_pixel, seed=5)


def shuffles(dataset: ShardDataset) -> dict[str, Shuffle]:
    return {"global": GlobalShuffle(len(dataset)), "block": BlockShuffle(dataset.shard_ends, 3)}


def keys(
    dataset: ShardDataset, shuffle: Shuffle, world: int, workers: int, accumulation: int, start: int = 0, stop: int = 99
) -> list[list[str]]:
    """The keys of each update from `start` to before `stop`, as the loaders of all ranks give them."""
    found: dict[int, dict[tuple[int, int], list[str]]] = {}
    for rank in range(world):
        sampler = TrainSampler(
            shuffle,
            batch_size=BATCH,
            world=world,
            rank=rank,
            accumulation=accumulation,
            seed=5,
            epoch=4,
            start_step=start,
        )
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=hand_over, num_workers=workers)  # type: ignore
        for batch in loader:
            if batch.position.step >= stop:
                break
            places = found.setdefault(batch.position.step, {})
            places[rank, batch.position.micro] = [dataset.key(index) for index in batch.indices.tolist()]
    return [[key for place in sorted(found[step]) for key in found[step][place]] for step in sorted(found)]


def cases() -> Iterator[tuple[int, int, int, str, int]]:
    """Every world, number of workers, accumulation and shuffle; the cuts of an epoch go round among them."""
    for number, (world, workers, accumulation, shuffle) in enumerate(
        itertools.product(WORLDS, WORKERS, ACCUMULATION, ("global", "block"))
    ):
        updates = SAMPLES // (BATCH * world * accumulation)
        yield world, workers, accumulation, shuffle, number % (updates + 1)


@pytest.mark.parametrize(("world", "workers", "accumulation", "shuffle", "cut"), list(cases()))
def test_an_epoch_has_each_sample_once_in_its_order_and_so_after_a_cut(
    dataset: ShardDataset, world: int, workers: int, accumulation: int, shuffle: str, cut: int
) -> None:
    chosen = shuffles(dataset)[shuffle]
    update = BATCH * world * accumulation
    visited = [dataset.key(index) for index in chosen.order(5, 0, 4).tolist()]
    expected = [visited[start : start + update] for start in range(0, SAMPLES // update * update, update)]
    before = keys(dataset, chosen, world, workers, accumulation, stop=cut)
    after = keys(dataset, chosen, world, workers, accumulation, start=cut)
    assert before + after == expected
    seen = Counter(itertools.chain(*before, *after))
    assert max(seen.values()) == 1
    assert SAMPLES - len(seen) == SAMPLES % update


@pytest.mark.parametrize("accumulation", ACCUMULATION)
@pytest.mark.parametrize("world", WORLDS)
def test_every_cut_goes_on_where_it_stopped(dataset: ShardDataset, world: int, accumulation: int) -> None:
    for shuffle in shuffles(dataset).values():
        whole = keys(dataset, shuffle, world, 0, accumulation)
        for cut in range(len(whole) + 1):
            assert keys(dataset, shuffle, world, 0, accumulation, start=cut) == whole[cut:]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("world", WORLDS)
def test_an_evaluation_has_each_sample_once(dataset: ShardDataset, world: int, workers: int) -> None:
    counted: Counter[int] = Counter()
    for rank in range(world):
        sampler = EvalSampler(SAMPLES, batch_size=8, world=world, rank=rank)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=hand_over, num_workers=workers)  # type: ignore
        for batch in loader:
            counted.update(batch.indices.tolist())
    assert counted == Counter(range(SAMPLES))


def test_the_remainder_of_an_epoch_is_reached_in_another(dataset: ShardDataset) -> None:
    for shuffle in shuffles(dataset).values():
        left_out = [set(shuffle.order(5, 0, epoch)[60:].tolist()) for epoch in range(30)]
        assert len(set.union(*left_out)) > 15
