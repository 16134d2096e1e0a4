"""Training from shards behind a web server: the same samples as from a folder, fetched in the order of need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import CUT, Loopback
from test_module import fit

from iwin.batch import Position
from iwin.data import remote as remote_module
from iwin.data import source
from iwin.data.cache import ShardCache
from iwin.data.fetch import Patience
from iwin.data.file_lock import is_locked
from iwin.data.module import ImageDataModule
from iwin.data.order import BlockShuffle
from iwin.data.remote import BlockFeed
from iwin.data.sampler import TrainSampler
from iwin.errors import ConfigError, DataError

Make = Callable[..., ImageDataModule]


@pytest.fixture
def server(server: Loopback, noise: Make, tmp_path: Path) -> Loopback:
    """Serves the noise data set below /noise: 3 training shards of 20, 20 and 17 samples, and 2 for validation."""
    noise()
    for path in (tmp_path / "noise").iterdir():
        server.files[f"/noise/{path.name}"] = path.read_bytes()
    return server


@pytest.fixture
def remote(noise: Make, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The noise data set by its URL; the server is asked again without a pause."""
    monkeypatch.setattr(source, "PATIENCE", Patience(timeout_s=5, attempts=3, backoff_s=0))

    def make(**changes: Any) -> ImageDataModule:
        return noise(**{"root": f"{server.url}/noise", "cache_dir": str(tmp_path / "cache"), "cache_gb": 1} | changes)

    return make


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "shuffle",
    [
        {"shuffle": "global"},
        {"shuffle": "block", "open_shards": 2},
        {"shuffle": "block", "open_shards": 1, "repeats": 2},
    ],
)
def test_training_from_a_url_sees_what_it_sees_from_a_folder(
    noise: Make, remote: Make, server: Loopback, shuffle: dict[str, Any], workers: int
) -> None:
    server.plans["/noise/train-00001.tar"] = [503, CUT]
    here = fit(noise(**shuffle), limit_val_batches=1.0)
    data = remote(num_workers=workers, **shuffle)
    there = fit(data, limit_val_batches=1.0)
    assert there.seen == here.seen
    assert sorted(there.validated) == sorted(here.validated)
    assert data.train_dataset.key(25) == noise().train_dataset.key(25)
    # Each file came once, but for the one that failed twice.
    assert {path: count for path, count in server.asked.items() if count > 1} == {"/noise/train-00001.tar": 3}


def test_what_was_fetched_once_is_not_fetched_again(remote: Make, server: Loopback) -> None:
    fit(remote(), epochs=1)
    before = sum(server.asked.values())
    fit(remote(), epochs=1)
    assert server.asked["/noise/manifest.json"] == 2
    assert sum(server.asked.values()) == before + 1


def test_a_shard_that_cannot_be_had_ends_training_with_its_url(remote: Make, server: Loopback) -> None:
    del server.files["/noise/train-00002.tar"]
    with pytest.raises(DataError, match=r"http://.*/noise/train-00002.tar"):
        fit(remote(), epochs=1)


def test_a_global_shuffle_of_more_than_the_cache_holds_is_refused(remote: Make, server: Loopback) -> None:
    largest = max(len(data) for path, data in server.files.items() if path.endswith(".tar"))
    data = remote(cache_gb=2.5 * largest / 1e9)
    with pytest.raises(ConfigError, match=r"set data.shuffle=block, or allow all of them"):
        fit(data, epochs=1)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("pipe:curl http://host/a", "would run a command"),
        ("file:///etc", "only http, https and s3"),
        ("https://me:secret@host/in1k", "holds a user or a password"),
    ],
)
def test_a_url_that_is_none_of_a_data_set_is_refused(remote: Make, root: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        remote(root=root).check()
    assert "secret" not in str(refused.value)


def test_class_folders_are_not_fetched(remote: Make) -> None:
    with pytest.raises(ConfigError, match="only shards are fetched"):
        remote(format="folder")


def test_the_feed_holds_the_block_in_use_and_the_next(server: Loopback, tmp_path: Path) -> None:
    cache = ShardCache(f"{server.url}/noise", tmp_path / "cache", limit_bytes=10**9, patience=Patience(5, 3, 0))
    names = [f"train-0000{number}.tar" for number in range(3)]
    shuffle = BlockShuffle(np.array([20, 40, 57]), open_shards=1)
    feed = BlockFeed(cache, shuffle, names, seed=7, update=5)
    order = [names[int(block[0])] for epoch in (0, 1) for block in shuffle.blocks(7, 0, epoch)]
    sizes = {"train-00000.tar": 20, "train-00001.tar": 20, "train-00002.tar": 17}
    try:
        for number, step in ((0, 0), (1, sizes[order[0]] // 5 + 1)):
            feed.at(Position(0, 0, step, 0))
            window = order[number : number + 2]
            server.wait_until(lambda window=window: all(server.asked[f"/noise/{name}"] for name in window))
        feed.at(Position(0, 1, 0, 0))
        assert server.asked.keys() <= {f"/noise/{name}" for name in [*names, "manifest.json"]}
    finally:
        feed.close()
    assert not any(is_locked(cache.root / name) for name in names if (cache.root / name).is_file())


def test_with_repetitions_the_blocks_that_an_epoch_does_not_reach_are_not_waited_for(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """57 samples, of which an epoch visits the first 29, each twice: two of its three shards, and then the next's."""
    wanted: list[tuple[list[str], int]] = []
    monkeypatch.setattr(remote_module.ReadAhead, "want", lambda self, order, first: wanted.append((order, first)))
    monkeypatch.setattr(remote_module.ReadAhead, "at", lambda self, first: wanted.append((wanted[-1][0], first)))
    cache = ShardCache(f"{server.url}/noise", tmp_path / "cache", limit_bytes=10**9, patience=Patience(5, 3, 0))
    names = [f"train-0000{number}.tar" for number in range(3)]
    ends = np.array([20, 40, 57])
    shuffle = BlockShuffle(ends, open_shards=1)
    feed = BlockFeed(cache, shuffle, names, seed=7, update=6, repeats=2)
    visited = TrainSampler(shuffle, batch_size=6, world=1, rank=0, accumulation=1, seed=7, repeats=2)
    for ticket in visited:
        feed.at(ticket.position)
        order, first = wanted[-1]
        shards = np.searchsorted(ends, ticket.indices, side="right")
        assert {names[shard] for shard in shards.tolist()} <= set(order[first : first + 2])
    assert [first for _, first in wanted] == [0] * 7 + [1] * 2
    assert order == [names[int(block[0])] for epoch in (0, 1) for block in shuffle.blocks(7, 0, epoch)[:2]]
