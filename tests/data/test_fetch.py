from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from loopback import CUT, FLIPPED, GATED, LONG, RESET, SHORT, STALLED, Loopback

from iwin.data.fetch import NotThere, Patience, RemoteFile, Stop, check_url, fetch_file, fetch_files
from iwin.errors import ConfigError, DataError

BYTES = os.urandom(3_000_001)
SHA256 = hashlib.sha256(BYTES).hexdigest()
AT_ONCE = Patience(timeout_s=10, attempts=4, backoff_s=0)
IMPATIENT = Patience(timeout_s=0.2, attempts=4, backoff_s=0)


@pytest.fixture
def server(server: Loopback) -> Loopback:
    """With the file that is fetched here."""
    server.files["/in1k/a.tar"] = BYTES
    return server


def remote(server: Loopback, folder: Path, **told: Any) -> RemoteFile:
    return RemoteFile(f"{server.url}/in1k/a.tar", folder / "a.tar", **({"size": len(BYTES), "sha256": SHA256} | told))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "plan",
    [[], [503], [500, 502, 504], [429], [408], [RESET], [CUT], [SHORT], [LONG], [FLIPPED], [503, RESET, CUT]],
    ids=str,
)
def test_the_right_bytes_come_in_as_many_requests_as_it_takes(server: Loopback, tmp_path: Path, plan: list) -> None:
    server.plans["/in1k/a.tar"] = list(plan)
    assert fetch_file(remote(server, tmp_path), AT_ONCE) == SHA256
    assert (tmp_path / "a.tar").read_bytes() == BYTES
    assert names(tmp_path) == ["a.tar"]
    assert server.asked["/in1k/a.tar"] == len(plan) + 1


def test_a_server_that_stalls_is_asked_again(server: Loopback, tmp_path: Path) -> None:
    server.plans["/in1k/a.tar"] = [STALLED]
    assert fetch_file(remote(server, tmp_path), IMPATIENT) == SHA256
    assert server.asked["/in1k/a.tar"] == 2


@pytest.mark.parametrize(
    ("answer", "told"), [(503, "answered 503"), (RESET, "could not be read"), (CUT, "could not be read")]
)
def test_the_attempts_are_used_up(server: Loopback, tmp_path: Path, answer: Any, told: str) -> None:
    server.plans["/in1k/a.tar"] = [answer] * 9
    with pytest.raises(DataError, match=f"a.tar {told}.* at the last of 4 attempts"):
        fetch_file(remote(server, tmp_path), AT_ONCE)
    # aiohttp itself asks once more where a connection is closed without an answer.
    assert server.asked["/in1k/a.tar"] in ([4, 8] if answer == RESET else [4])
    assert names(tmp_path) == []


def test_a_file_that_always_ends_early_is_told_with_both_sizes(server: Loopback, tmp_path: Path) -> None:
    server.plans["/in1k/a.tar"] = [SHORT] * 9
    with pytest.raises(DataError, match="ended after 1,500,000 of 3,000,001 bytes"):
        fetch_file(remote(server, tmp_path), AT_ONCE)
    assert names(tmp_path) == []


def test_wrong_bytes_twice_are_wrong_on_the_server(server: Loopback, tmp_path: Path) -> None:
    other = "0" * 64
    with pytest.raises(DataError, match=f"a.tar has sha256 {SHA256}, and should have {other}, 2 times over"):
        fetch_file(remote(server, tmp_path, sha256=other), AT_ONCE)
    assert server.asked["/in1k/a.tar"] == 2
    assert names(tmp_path) == []


def test_a_file_that_is_too_long_twice_is_another_one(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than the 1,000 bytes"):
        fetch_file(remote(server, tmp_path, size=1000), AT_ONCE)
    assert server.asked["/in1k/a.tar"] == 2


@pytest.mark.parametrize(
    ("status", "told"), [(404, "is not there"), (403, "access is refused"), (401, "netrc"), (410, "answers 410")]
)
def test_what_stays_wrong_is_not_tried_again(server: Loopback, tmp_path: Path, status: int, told: str) -> None:
    server.plans["/in1k/a.tar"] = [status] * 9
    with pytest.raises(DataError, match=told) as raised:
        fetch_file(remote(server, tmp_path), AT_ONCE)
    assert f"{server.url}/in1k/a.tar" in str(raised.value)
    assert isinstance(raised.value, NotThere) == (status == 404)
    assert server.asked["/in1k/a.tar"] == 1
    assert names(tmp_path) == []


def test_nobody_listening_is_told_with_the_url(tmp_path: Path) -> None:
    with Loopback().running() as server:
        url = f"{server.url}/a.tar"
    with pytest.raises(DataError, match=f"{url} could not be read .*at the last of 4 attempts"):
        fetch_file(RemoteFile(url, tmp_path / "a.tar"), AT_ONCE)


def test_a_failed_fetch_leaves_what_was_there(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"before")
    server.plans["/in1k/a.tar"] = [FLIPPED] * 9
    with pytest.raises(DataError):
        fetch_file(remote(server, tmp_path), AT_ONCE)
    assert (tmp_path / "a.tar").read_bytes() == b"before"


def test_a_file_gets_its_name_only_when_it_is_whole(server: Loopback, tmp_path: Path) -> None:
    server.plans["/in1k/a.tar"] = [GATED]
    thread = threading.Thread(target=fetch_file, args=(remote(server, tmp_path), AT_ONCE))
    thread.start()
    server.wait_until(lambda: server.reached == 1)
    assert names(tmp_path) in ([], ["a.tar.partial"])
    server.gate.set()
    thread.join()
    assert names(tmp_path) == ["a.tar"]


def test_many_files_come_together_each_once(server: Loopback, tmp_path: Path) -> None:
    for number in range(40):
        server.files[f"/{number}.idx"] = bytes([number]) * number
    server.plans["/7.idx"] = [503]
    files = [RemoteFile(f"{server.url}/{number}.idx", tmp_path / f"{number}.idx") for number in range(40)]
    hashes = fetch_files(files, AT_ONCE)
    assert hashes == [hashlib.sha256(bytes([number]) * number).hexdigest() for number in range(40)]
    assert [(tmp_path / f"{number}.idx").stat().st_size for number in range(40)] == list(range(40))
    assert set(server.asked.values()) == {1, 2}
    assert server.asked["/7.idx"] == 2


def test_one_of_many_that_is_missing_is_the_error(server: Loopback, tmp_path: Path) -> None:
    files = [remote(server, tmp_path), RemoteFile(f"{server.url}/none.idx", tmp_path / "none.idx")]
    with pytest.raises(NotThere, match=r"none\.idx is not there"):
        fetch_files(files, AT_ONCE)
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


def test_a_fetch_is_stopped_from_another_thread(server: Loopback, tmp_path: Path) -> None:
    server.plans["/in1k/a.tar"] = [STALLED]
    stop, ends = Stop(), []

    def fetch() -> None:
        try:
            fetch_file(remote(server, tmp_path), Patience(timeout_s=600, attempts=1, backoff_s=0), stop)
        except asyncio.CancelledError as error:
            ends.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    server.wait_until(lambda: bool(server.asked))
    stop.ask()
    thread.join(10)
    assert len(ends) == 1
    assert names(tmp_path) == []
    with pytest.raises(asyncio.CancelledError):
        fetch_file(remote(server, tmp_path), AT_ONCE, stop)


def test_a_notebook_that_has_a_loop_can_fetch(server: Loopback, tmp_path: Path) -> None:
    async def cell() -> str:
        return fetch_file(remote(server, tmp_path), AT_ONCE)

    assert asyncio.run(cell()) == SHA256


def test_a_forked_process_fetches_after_and_while_its_parent_does(server: Loopback, tmp_path: Path) -> None:
    for name in ("before", "parent", "child"):
        (tmp_path / name).mkdir()
    fetch_file(remote(server, tmp_path / "before"), AT_ONCE)
    server.plans["/in1k/a.tar"] = [GATED]
    thread = threading.Thread(target=fetch_file, args=(remote(server, tmp_path / "parent"), AT_ONCE))
    thread.start()
    server.wait_until(lambda: server.reached == 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if fetch_file(remote(server, tmp_path / "child"), AT_ONCE) == SHA256 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    server.gate.set()
    thread.join(10)
    assert (tmp_path / "parent" / "a.tar").read_bytes() == (tmp_path / "child" / "a.tar").read_bytes() == BYTES


def test_failures_draw_nothing_from_the_generators_of_the_run(server: Loopback, tmp_path: Path) -> None:
    random.seed(3)
    expected = random.getstate()
    server.plans["/in1k/a.tar"] = [503, RESET]
    fetch_file(remote(server, tmp_path), AT_ONCE)
    assert random.getstate() == expected


def test_a_full_disk_is_told_and_not_tried_again(server: Loopback, tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="is full"):
        fetch_file(remote(server, tmp_path), AT_ONCE)
    assert server.asked["/in1k/a.tar"] == 1


def test_bytes_are_asked_for_as_they_are_and_credentials_come_from_netrc(
    server: Loopback, tmp_path: Path, monkeypatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    fetch_file(remote(server, tmp_path), AT_ONCE)
    assert server.headers["Accept-Encoding"] == "identity"
    assert server.headers["Authorization"].startswith("Basic ")
    assert "Range" not in server.headers


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("pipe:cat /etc/passwd", "run a command"),
        ("pipe://cat", "run a command"),
        ("!curl http://host/x", "run a command"),
        ("file:///data", "only http, https and s3"),
        ("/data/in1k", "only http, https and s3"),
        ("gs://bucket/in1k", "only http, https and s3"),
        ("simplecache::http://host/in1k", "chain of URLs"),
        ("http://host/a::file:///etc", "chain of URLs"),
        ("http://host/in1k?page=2", r"after a \? or #"),
        ("http://host/in1k#top", r"after a \? or #"),
        ("http:///in1k", "names no host"),
        ("s3:///in1k", "names no bucket"),
        ("http://host:port/in1k", "cannot be read as a URL"),
        ("http://host/in 1k", "blanks or control"),
        ("http://host/in1k\n", "blanks or control"),
    ],
)
def test_only_plain_urls_are_fetched(url: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        check_url(url)
    with pytest.raises(ConfigError, match=why):
        fetch_file(RemoteFile(url, tmp_path / "a"), AT_ONCE)


@pytest.mark.parametrize("url", ["http://host/in1k", "https://host:8443/a/b/", "s3://bucket", "s3://bucket/in1k"])
def test_plain_urls_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/in1k",
        "s3://KEY:secret@bucket/in1k",
        "ftp://me:secret@host/in1k",
        "https://me:sec/secret@host/in1k",
        "https://host/in1k?token=secret",
        "x::https://me:secret@host/in1k",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_url(url)
    assert "secret" not in str(raised.value)
