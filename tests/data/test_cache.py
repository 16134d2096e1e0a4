from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from pathlib import Path

import pytest
from loopback import FLIPPED, GATED, Loopback, serve_manifest

from iwin.data.cache import NoRoom, ShardCache
from iwin.data.fetch import Patience
from iwin.data.file_lock import release
from iwin.data.index import ShardIndex
from iwin.errors import ConfigError, DataError

AT_ONCE = Patience(timeout_s=10, attempts=3, backoff_s=0)


def here(cache: ShardCache, suffix: str = ".tar") -> list[str]:
    return sorted(path.name for path in cache.root.glob(f"*{suffix}"))


def asked(server: Loopback, name: str) -> int:
    return server.asked[f"/in1k/{name}"]


def test_a_shard_is_fetched_once_and_found_by_the_next_process(opened, server: Loopback, names: list[str]) -> None:
    cache = opened()
    assert cache.path(names[2]).read_bytes() == server.files[f"/in1k/{names[2]}"]
    assert cache.path(names[2]) == opened().path(names[2]) == cache.root / names[2]
    assert asked(server, names[2]) == 1
    assert here(cache) == [names[2]]


def test_damage_on_the_way_never_gets_the_name(opened, server: Loopback, names: list[str]) -> None:
    server.plans[f"/in1k/{names[0]}"] = [FLIPPED] * 9
    cache = opened()
    with pytest.raises(DataError, match="has sha256"):
        cache.path(names[0])
    assert here(cache) == here(cache, ".partial") == []


def test_a_shard_of_another_size_than_told_is_fetched_again(opened, server: Loopback, names: list[str]) -> None:
    cache = opened()
    os.truncate(cache.path(names[0]), 100)
    before = asked(server, names[0])  # more than once where a busy machine was too slow to answer
    assert cache.path(names[0]).read_bytes() == server.files[f"/in1k/{names[0]}"]
    assert asked(server, names[0]) > before


def test_indexes_come_once_and_before_their_shards(opened, server: Loopback, names: list[str]) -> None:
    opened().fetch_indexes(names)
    cache = opened()
    cache.fetch_indexes(names)
    assert [ShardIndex(cache.root / name, fetched=False).labels.tolist() for name in names] == [[i] for i in range(8)]
    assert {asked(server, name.replace(".tar", ".idx")) for name in names} == {1}
    assert here(cache) == []


def test_another_version_of_a_data_set_lies_apart(opened, server: Loopback, names: list[str], tmp_path: Path) -> None:
    first = opened()
    first.path(names[0])
    shards = [{"name": name, "bytes": shard.size, "sha256": shard.sha256} for name, shard in first.shards.items()]
    digest = serve_manifest(server, shards[:5])
    second = opened()
    assert second.root == tmp_path / "node" / digest[:16]
    assert here(second) == []
    assert list(second.shards) == names[:5]
    assert here(first) == [names[0]]
    assert first.manifest["splits"] != second.manifest["splits"]


def test_the_bound_holds_and_the_longest_unused_goes_first(opened, names: list[str]) -> None:
    cache = opened(3)
    for name in names[:3]:
        cache.path(name)
    cache.path(names[0])
    cache.path(names[3])
    assert here(cache) == [names[0], names[2], names[3]]
    for name in names * 2:
        cache.path(name)
        assert sum((cache.root / one).stat().st_size for one in here(cache)) <= cache.limit_bytes
    assert here(cache) == names[-3:]


def test_a_smaller_bound_than_before_is_reached_by_the_next_fetch(opened, names: list[str]) -> None:
    for name in names[:6]:
        opened(8).path(name)
    cache = opened(2)
    cache.path(names[6])
    assert here(cache) == names[5:7]


def test_a_bound_below_two_shards_is_refused(opened) -> None:
    with pytest.raises(ConfigError, match="at least two shards"):
        opened(1.9)


def test_a_shard_that_was_removed_is_read_on(opened, server: Loopback, names: list[str]) -> None:
    cache = opened(2)
    descriptor = cache.open(names[0])
    for name in names[1:5]:
        cache.path(name)
    assert names[0] not in here(cache)
    assert os.pread(descriptor, 10**6, 0) == server.files[f"/in1k/{names[0]}"]
    os.close(descriptor)


def test_a_shard_that_is_removed_before_it_is_opened_is_fetched_again(
    opened, server: Loopback, names: list[str], monkeypatch
) -> None:
    cache = opened()
    path_of, calls = cache.path, []

    def removed_the_first_time(name: str) -> Path:
        path = path_of(name)
        if not calls:
            path.unlink()
        calls.append(name)
        return path

    monkeypatch.setattr(cache, "path", removed_the_first_time)
    os.close(cache.open(names[0]))
    assert asked(server, names[0]) == len(calls) == 2


def test_processes_that_ask_at_once_cause_one_download(opened, server: Loopback, names: list[str]) -> None:
    cache = opened()
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(4)

    def ask() -> None:
        start.wait()
        for name in names[:3]:
            assert cache.path(name).stat().st_size == cache.shards[name].size

    processes = [fork.Process(target=ask) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [asked(server, name) for name in names[:3]] == [1, 1, 1]


def killed_while_fetching(cache: ShardCache, server: Loopback, name: str) -> None:
    server.plans[f"/in1k/{name}"] = [GATED]
    process = os.fork()
    if process == 0:
        try:
            cache.path(name)
        finally:
            os._exit(0)
    server.wait_until(lambda: server.reached == 1)
    assert here(cache, ".partial") == [f"{name}.partial"]
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_killed_fetcher_blocks_nobody_and_its_remains_go(opened, server: Loopback, names: list[str]) -> None:
    cache = opened()
    killed_while_fetching(cache, server, names[0])
    assert here(cache, ".partial") == [f"{names[0]}.partial"]
    assert cache.path(names[0]).read_bytes() == server.files[f"/in1k/{names[0]}"]
    assert here(cache, ".partial") == []


def test_what_a_killed_fetcher_left_takes_no_room(opened, server: Loopback, names: list[str]) -> None:
    cache = opened(2)
    killed_while_fetching(cache, server, names[0])
    cache.path(names[1])
    cache.path(names[2])
    assert here(cache) == names[1:3]
    assert here(cache, ".partial") == []


def test_what_is_being_fetched_takes_its_room_and_is_waited_for(opened, server: Loopback, names: list[str]) -> None:
    cache = opened(2)
    for name in names[:2]:
        server.plans[f"/in1k/{name}"] = [GATED]
    threads = [threading.Thread(target=cache.path, args=(name,)) for name in names[:3]]
    for thread in threads[:2]:
        thread.start()
    server.wait_until(lambda: server.reached == 2)
    threads[2].start()
    assert asked(server, names[2]) == 0
    server.gate.set()
    for thread in threads:
        thread.join(30)
    assert len(here(cache)) == 2
    assert names[2] in here(cache)


def test_held_shards_stay_and_leave_room_for_one(opened, names: list[str]) -> None:
    cache = opened(3)
    held = [cache.hold(name) for name in names[:2]]
    with pytest.raises(NoRoom, match="read fewer shards ahead"):
        cache.hold(names[2])
    for name in names[2:]:
        cache.path(name)
        assert here(cache) == [*names[:2], name]
    release(held[0])
    cache.path(names[2])
    assert here(cache) == [names[1], names[2], names[-1]]
    release(held[1])


def test_a_process_with_a_smaller_bound_is_told_that_others_hold_more(opened, names: list[str]) -> None:
    held = [opened(8).hold(name) for name in names[:3]]
    with pytest.raises(NoRoom, match="in use or soon needed"):
        opened(2).path(names[4])
    for descriptor in held:
        release(descriptor)


def test_a_disk_with_too_little_room_is_told(opened, names: list[str], monkeypatch) -> None:
    cache = opened()
    usage = shutil.disk_usage(cache.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="has 1,000 bytes free, and the next shard takes"):
        cache.path(names[0])
    assert here(cache) == here(cache, ".partial") == []


def test_a_folder_that_cannot_be_one_is_told(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Choose another folder"):
        ShardCache(f"{server.url}/in1k", tmp_path / "file", limit_bytes=10**9, patience=AT_ONCE)


def test_a_cache_pickles(opened, server: Loopback, names: list[str]) -> None:
    cache = pickle.loads(pickle.dumps(opened()))
    assert cache.path(names[0]).read_bytes() == server.files[f"/in1k/{names[0]}"]
