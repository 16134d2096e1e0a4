"""What a server tells of a data set is not believed before it was looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, serve_manifest

from iwin.errors import DataError


def test_an_index_of_other_bytes_is_refused_and_not_kept(opened, server: Loopback, names: list[str]) -> None:
    right = server.files["/in1k/train-00001.idx"]
    for wrong, told in (
        (server.files["/in1k/train-00002.idx"], "index of another"),
        (right[:-1], "should be"),
        (b"<html>", "not an index"),
    ):
        server.files["/in1k/train-00001.idx"] = wrong
        with pytest.raises(DataError, match=f"in1k/train-00001.idx is .*{told}"):
            opened().fetch_indexes(names)
    server.files["/in1k/train-00001.idx"] = right
    opened().fetch_indexes(names)


def test_a_missing_manifest_or_index_is_told(opened, server: Loopback, names: list[str]) -> None:
    del server.files["/in1k/train-00003.idx"]
    with pytest.raises(DataError, match=r"in1k/train-00003\.idx is not there"):
        opened().fetch_indexes(names)
    del server.files["/in1k/manifest.json"]
    with pytest.raises(DataError, match=r"in1k/manifest\.json is not there.*iwin shards write"):
        opened()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "../../out.tar"}, "cannot be"),
        ({"name": "/etc/out.tar"}, "cannot be"),
        ({"name": "manifest.json"}, "cannot be"),
        ({"name": "a b.tar"}, "cannot be"),
        ({"sha256": "../x"}, "cannot be"),
        ({"bytes": 0}, "cannot be"),
        ({"bytes": None}, "damaged"),
        ({"name": "train-00001.tar"}, "a shard twice"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(opened, server: Loopback, change: dict[str, Any], told: str) -> None:
    shards = [{"name": f"train-0000{i}.tar", "bytes": 10240, "sha256": "0" * 64} for i in range(2)]
    serve_manifest(server, [shards[0] | change, shards[1]])
    with pytest.raises(DataError, match=f"in1k/manifest.json .*{told}"):
        opened()


def test_what_is_no_manifest_is_refused_and_not_kept(opened, server: Loopback, tmp_path: Path) -> None:
    right = server.files["/in1k/manifest.json"]
    server.files["/in1k/manifest.json"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match=r"in1k/manifest\.json is not what it should be"):
        opened()
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["manifest.lock"]
    server.files["/in1k/manifest.json"] = right
    opened()
