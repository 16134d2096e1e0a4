"""Files from an object store come as those from a web server do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from loopback import CUT, RESET, Loopback

from iwin.data.fetch import NotThere, Patience, RemoteFile, fetch_file
from iwin.errors import ConfigError, DataError

BYTES = os.urandom(3_000_001)
SHA256 = hashlib.sha256(BYTES).hexdigest()
AT_ONCE = Patience(timeout_s=10, attempts=4, backoff_s=0)


def test_s3_without_s3fs_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    def missing(*args: Any, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ConfigError, match=r"pip install 'iwin\[s3\]'"):
        fetch_file(RemoteFile("s3://bucket/a.tar", tmp_path / "a.tar"), AT_ONCE)


class StandIn:
    """Files in memory behind the asynchronous calls of s3fs; it notes the options it was made with."""

    protocol = "s3"
    options: ClassVar[dict[str, Any]]
    open_sessions: ClassVar[int] = 0

    def __init__(self, **options: Any) -> None:
        type(self).options = options
        self.memory = MemoryFileSystem()

    async def set_session(self) -> StandIn:
        type(self).open_sessions += 1
        return self

    async def close(self) -> None:
        type(self).open_sessions -= 1

    async def open_async(self, path: str, mode: str, **options: Any) -> StandInFile:
        return StandInFile(self.memory.open(path.replace("s3://", "memory://"), mode))


class StandInFile:
    def __init__(self, file: Any) -> None:
        self.file = file

    async def read(self, count: int) -> bytes:
        return self.file.read(count)

    async def close(self) -> None:
        self.file.close()


def test_an_object_store_gives_whole_verified_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(_registry, "s3", StandIn)
    MemoryFileSystem().pipe_file("/bucket/a.tar", BYTES)
    file = RemoteFile("s3://bucket/a.tar", tmp_path / "a.tar", len(BYTES), SHA256)
    assert fetch_file(file, AT_ONCE) == SHA256
    assert (tmp_path / "a.tar").read_bytes() == BYTES
    assert StandIn.open_sessions == 0
    assert StandIn.options["config_kwargs"]["read_timeout"] == AT_ONCE.timeout_s
    with pytest.raises(NotThere, match=r"s3://bucket/b\.tar is not there"):
        fetch_file(RemoteFile("s3://bucket/b.tar", tmp_path / "b.tar"), AT_ONCE)


@pytest.mark.parametrize(
    ("plan", "told"), [([], None), ([503, RESET, CUT], None), ([404], "is not there"), ([403] * 9, "access is refused")]
)
def test_s3fs_itself_against_a_server_that_answers_as_s3_does(
    server: Loopback, tmp_path: Path, monkeypatch, plan: list, told: str | None
) -> None:
    pytest.importorskip("s3fs")
    server.files["/in1k/a.tar"] = BYTES
    for name, value in {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server.plans["/in1k/a.tar"] = list(plan)
    file = RemoteFile("s3://in1k/a.tar", tmp_path / "a.tar", len(BYTES), SHA256)
    if told is None:
        assert fetch_file(file, AT_ONCE) == SHA256
        assert server.asked["/in1k/a.tar"] == len(plan) + 1
    else:
        with pytest.raises(DataError, match=told):
            fetch_file(file, AT_ONCE)
        assert server.asked["/in1k/a.tar"] == 1
