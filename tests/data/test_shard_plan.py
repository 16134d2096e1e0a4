from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded

from iwin.data.folder import find_images
from iwin.data.shard_plan import SplitPlan, ends_by_bytes, ends_by_count, plan_split
from iwin.data.shrink import Shrink
from iwin.data.writer import ShardLimit, sample_bytes, write_shard
from iwin.errors import ConfigError, DataError
from iwin.tools.shard_sources import source_sizes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 JPEGs of noise in two classes, 20 to 60 pixels a side."""
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "photos" / ("a", "b")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*rng.integers(20, 61, 2), 3), dtype=np.uint8)
        (folder / f"p{number:02d}.jpg").write_bytes(encoded(Image.fromarray(pixels), "JPEG", quality=90))
    return tmp_path / "photos"


def plan(root: Path, *, seed: int = 0, size: int = 40_000, shrink: Shrink | None = None, jobs: int = 1) -> SplitPlan:
    images = find_images(root)
    limit = ShardLimit(size=size)
    return plan_split("train", images, source_sizes(images), seed=seed, limit=limit, shrink=shrink, jobs=jobs)


def test_a_shard_is_closed_by_the_sample_that_fills_it() -> None:
    assert ends_by_bytes(np.array([3, 3, 4, 9, 10, 11, 1]), 10).tolist() == [3, 5, 6, 7]
    assert ends_by_bytes(np.array([10, 10]), 10).tolist() == [1, 2]
    assert ends_by_bytes(np.array([1]), 10).tolist() == [1]
    assert ends_by_bytes(np.full(5, 1), 1).tolist() == [1, 2, 3, 4, 5]
    sizes = np.random.default_rng(0).integers(1, 100, 5000)
    held, expected = 0, []
    for place, size in enumerate(sizes.tolist(), start=1):
        held += size
        if held >= 1000 or place == len(sizes):
            expected.append(place)
            held = 0
    assert ends_by_bytes(sizes, 1000).tolist() == expected


@pytest.mark.parametrize(
    ("count", "per_shard", "ends"), [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 4, [3]), (3, 1, [1, 2, 3])]
)
def test_a_shard_is_closed_by_its_number_of_samples(count: int, per_shard: int, ends: list[int]) -> None:
    assert ends_by_count(count, per_shard).tolist() == ends


def test_what_a_sample_is_planned_to_take_is_what_it_takes(photos: Path, tmp_path: Path) -> None:
    whole = plan(photos, size=10**9)
    (shard,) = whole.shards()
    index = write_shard(tmp_path / shard.name, whole.samples(shard, None), 2)
    planned = int(sample_bytes(whole.sizes).sum())
    assert planned + 1024 <= index.tar_size < planned + 1024 + 10_240  # two empty blocks, and to a multiple of 10,240


def test_a_plan_is_a_function_of_the_seed_and_the_source_alone(photos: Path) -> None:
    shrink = Shrink(24, 90)
    one, same, other = plan(photos, shrink=shrink), plan(photos, shrink=shrink, jobs=3), plan(photos, seed=1)
    assert np.array_equal(one.order, same.order)
    assert np.array_equal(one.ends, same.ends)
    assert one.source_hash() == same.source_hash() == other.source_hash()
    assert not np.array_equal(one.order, other.order)
    assert sorted(other.order.tolist()) == list(range(60))


def test_shards_of_images_made_smaller_come_near_their_size(photos: Path, tmp_path: Path) -> None:
    shrink = Shrink(24, 90)
    smaller = plan(photos, size=30_000, shrink=shrink)
    assert len(smaller.ends) < len(plan(photos, size=30_000).ends)
    for shard in smaller.shards()[:-1]:
        stored = [len(sample.image) for sample in smaller.samples(shard, shrink)]
        assert 0.8 * 30_000 < sample_bytes(np.array(stored)).sum() < 1.3 * 30_000


def test_the_hash_of_a_source_is_of_names_sizes_and_labels(photos: Path) -> None:
    seen = {plan(photos).source_hash()}

    def is_new() -> bool:
        before = len(seen)
        seen.add(plan(photos).source_hash())
        return len(seen) > before

    first = photos / "a" / "p00.jpg"
    data = first.read_bytes()
    assert not is_new()
    first.write_bytes(data + b"\0")
    assert is_new()
    first.write_bytes(data)
    assert not is_new()
    first.rename(photos / "a" / "q00.jpg")
    assert is_new()
    (photos / "a").rename(photos / "c")  # the same names in the classes b and c: other labels
    assert is_new()


def test_a_limit_and_images_must_be_there(photos: Path) -> None:
    images = find_images(photos)
    sizes = source_sizes(images)
    for limit in (ShardLimit(), ShardLimit(0), ShardLimit(3, 3), ShardLimit(size=-1)):
        with pytest.raises(ConfigError, match="either a number of samples or a size"):
            plan_split("train", images, sizes, seed=0, limit=limit, shrink=None, jobs=1)
    (photos / "b" / "p01.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"p01.jpg is empty"):
        source_sizes(images)
    (photos / "b" / "p01.jpg").unlink()
    with pytest.raises(DataError, match=r"p01.jpg cannot be read: No such file"):
        source_sizes(images)
