from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import STALLED, Loopback

from iwin.data.cache import ShardCache
from iwin.data.fetch import Patience
from iwin.data.file_lock import is_locked
from iwin.data.read_ahead import ReadAhead
from iwin.errors import ConfigError, DataError

AT_ONCE = Patience(timeout_s=30, attempts=3, backoff_s=0)


@pytest.fixture
def cache(server: Loopback, names: list[str], tmp_path: Path) -> ShardCache:
    """A cache that may hold four shards."""
    size = len(server.files[f"/in1k/{names[0]}"])
    return ShardCache(f"{server.url}/in1k", tmp_path / "node", limit_bytes=4 * size, patience=AT_ONCE)


@pytest.fixture
def reading(cache: ShardCache) -> Iterator[Callable[[int], ReadAhead]]:
    """Make a ReadAhead that is closed after the test."""
    made: list[ReadAhead] = []

    def make(ahead: int) -> ReadAhead:
        made.append(ReadAhead(cache, ahead))
        return made[-1]

    yield make
    for one in made:
        one.close()


def shards_asked(server: Loopback) -> list[str]:
    return [path.removeprefix("/in1k/") for path in server.order if path.endswith(".tar")]


def held(cache: ShardCache) -> list[str]:
    return sorted(path.name for path in cache.root.glob("*.tar") if is_locked(path))


def wait_for(reader: ReadAhead, names: list[str]) -> None:
    """Return when the reader holds exactly these."""
    with reader._changed:
        assert reader._changed.wait_for(lambda: reader._held.keys() == set(names), timeout=30), reader._held


def test_shards_come_in_their_order_and_no_further_than_the_window(reading, cache, server, names) -> None:
    order = [names[i] for i in (5, 1, 7, 0, 3, 2)]
    reader = reading(2)
    reader.want(order)
    wait_for(reader, order[:3])
    assert shards_asked(server) == order[:3]
    reader.at(2)
    wait_for(reader, order[2:5])
    assert shards_asked(server) == order[:5]
    reader.at(5)
    wait_for(reader, order[5:])


def test_the_window_is_not_removed_whatever_else_is_fetched(reading, cache, server, names) -> None:
    reader = reading(1)
    reader.want(names)
    wait_for(reader, names[:2])
    for name in [*names[2:], *names[2:]]:
        cache.path(name)
        there = sorted(path.name for path in cache.root.glob("*.tar"))
        assert there[:2] == names[:2]
        assert sum((cache.root / one).stat().st_size for one in there) <= cache.limit_bytes
    assert shards_asked(server).count(names[0]) == 1


def test_a_new_order_keeps_what_both_windows_have(reading, cache, server, names) -> None:
    reader = reading(1)
    reader.want(names)
    wait_for(reader, names[:2])
    reader.want([names[1], names[4]])
    wait_for(reader, [names[1], names[4]])
    assert held(cache) == [names[1], names[4]]
    assert shards_asked(server) == [names[0], names[1], names[4]]


def test_two_ranks_with_one_order_share_what_is_fetched(reading, cache, server, names) -> None:
    first, second = reading(1), reading(1)
    for position in range(len(names)):
        for reader in (first, second):
            reader.want(names, position)
        wait_for(first, names[position : position + 2])
        wait_for(second, names[position : position + 2])
    assert shards_asked(server) == names


def test_where_the_ranks_want_more_than_fits_each_goes_on_when_it_moves(reading, cache, names, monkeypatch) -> None:
    tried: list[str] = []
    hold = cache.hold
    monkeypatch.setattr(cache, "hold", lambda name, stop: tried.append(name) or hold(name, stop))
    first, second = reading(1), reading(1)
    first.want(names[:2])
    wait_for(first, names[:2])
    second.want(names[4:6])
    wait_for(second, [names[4]])
    cache.path(names[7])  # for what is needed at once there is room
    assert held(cache) == [*names[:2], names[4]]
    first.at(1)
    second.at(0)
    wait_for(second, names[4:6])
    assert held(cache) == [names[1], *names[4:6]]
    assert tried.count(names[5]) <= 3  # not again and again while nothing has changed


def test_an_error_comes_to_the_consumer_and_comes_again(reading, cache, server, names) -> None:
    reader = reading(1)
    server.plans[f"/in1k/{names[1]}"] = [404] * 9
    reader.want(names)
    with reader._changed:
        assert reader._changed.wait_for(lambda: reader._error is not None, timeout=30)
    with pytest.raises(DataError, match=f"{names[1]} is not there"):
        reader.at(0)
    with pytest.raises(DataError, match=f"{names[1]} is not there"):
        reader.want(names)
    assert shards_asked(server) == names[:2]


def test_closing_ends_a_fetch_that_stalls_and_gives_everything_up(reading, cache, server, names) -> None:
    reader = reading(1)
    server.plans[f"/in1k/{names[1]}"] = [STALLED]
    reader.want(names)
    server.wait_until(lambda: names[1] in shards_asked(server))
    reader.close()
    assert held(cache) == []
    assert sorted(os.listdir(cache.root)) == sorted(
        ["manifest.json", "room.lock", names[0], *(f"{name}.lock" for name in names[:2])]
    )
    reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        reader.at(1)
    assert cache.path(names[1]).stat().st_size == cache.shards[names[1]].size


def test_a_window_that_does_not_fit_is_refused(reading) -> None:
    reading(2)
    with pytest.raises(ConfigError, match="read fewer ahead"):
        reading(3)
