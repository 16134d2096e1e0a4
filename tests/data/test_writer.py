from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
import webdataset
from tiny_images import square

from iwin.data.manifest import read_manifest
from iwin.data.shards import ShardDataset, ShardFolder
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import DataError

SAMPLES = [Sample(f"k{i:02d}", square(i), "png", i % 2) for i in range(25)]


def write(root: Path, samples=SAMPLES, **size: int) -> Path:
    with DataSetWriter(root, classes=["even", "odd"], about={"licence": "none"}) as writer:
        writer.write_split("train", samples, **size or {"samples_per_shard": 10})
    return root


def test_every_sample_is_read_back_in_order(tmp_path: Path) -> None:
    data = ShardDataset(ShardFolder(write(tmp_path / "set")), "train-*.tar", None, None)
    assert [len(shard) for shard in data.shards] == [10, 10, 5]
    assert [(data.key(i), data.read(i), int(data.labels[i])) for i in range(25)] == [
        (f"train-{i // 10:05d}.tar:k{i:02d}", square(i), i % 2) for i in range(25)
    ]
    assert data.classes == ["even", "odd"]


def test_a_shard_is_closed_once_it_has_its_bytes(tmp_path: Path) -> None:
    shards = ShardDataset(ShardFolder(write(tmp_path / "set", shard_bytes=10_000)), "*.tar", None, None).shards
    assert len({len(shard) for shard in shards[:-1]}) == 1
    assert sum(map(len, shards)) == 25
    assert all(10_000 <= shard.tar_size < 10_000 + 2 * 10_240 for shard in shards[:-1])  # tar pads to 10,240


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    files = [sorted(write(tmp_path / name).iterdir()) for name in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_the_manifest_tells_what_was_written(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    manifest = read_manifest(root)
    assert manifest is not None
    assert manifest["classes"] == ["even", "odd"]
    assert manifest["about"] == {"licence": "none"}
    assert manifest["splits"]["train"]["samples"] == 25
    for shard in manifest["splits"]["train"]["shards"]:
        data = (root / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_a_data_set_is_not_overwritten(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    before = {path: path.read_bytes() for path in root.iterdir()}
    with pytest.raises(DataError, match="not overwritten"):
        write(root, SAMPLES[:3])
    (root / "manifest.json").rename(tmp_path / "manifest.json")
    with pytest.raises(DataError, match=r"train-00000.tar"):
        write(root, SAMPLES[:3])
    (tmp_path / "manifest.json").rename(root / "manifest.json")
    assert {path: path.read_bytes() for path in root.iterdir()} == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Sample("a.b", b"x", "png", 0), "cannot be a key"),
        (Sample("dir/", b"x", "png", 0), "cannot be a key"),
        (Sample("a", b"", "png", 0), "is empty"),
        (Sample("a", b"x", "gif", 0), "extension 'gif'"),
        (Sample("a", b"x", "png", 2), "label 2"),
        (Sample("k03", b"x", "png", 0), "comes again|has two"),
    ],
)
def test_a_failed_write_leaves_nothing(tmp_path: Path, bad: Sample, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "set", [*SAMPLES[:14], bad], samples_per_shard=20)
    assert list((tmp_path / "set").iterdir()) == []


def test_no_samples_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        write(tmp_path / "set", [])


def test_a_lost_or_changed_shard_is_found_by_the_manifest(tmp_path: Path) -> None:
    root, other = write(tmp_path / "set"), write(tmp_path / "other", SAMPLES[::-1])
    for suffix in ("tar", "idx"):
        (root / f"train-00001.{suffix}").replace(tmp_path / f"moved.{suffix}")
    with pytest.raises(DataError, match=r"1 of 3 shards .*first: train-00001.tar"):
        ShardDataset(ShardFolder(root), "train-*.tar", None, None)
    for suffix in ("tar", "idx"):
        (other / f"train-00001.{suffix}").replace(root / f"train-00001.{suffix}")
    with pytest.raises(DataError, match="is not the shard that the manifest"):
        ShardDataset(ShardFolder(root), "train-*.tar", None, None)


def test_long_keys_survive(tmp_path: Path) -> None:
    key = "é" * 150
    root = write(tmp_path / "set", [Sample(key, square(1), "png", 0)])
    assert ShardDataset(ShardFolder(root), "*.tar", None, None).key(0) == f"train-00000.tar:{key}"
    with tarfile.open(root / "train-00000.tar") as tar:
        assert tar.getnames() == [f"{key}.cls", f"{key}.png"]


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    samples = [Sample(f"dir/key-{i}", square(i), "png", i % 2) for i in range(5)]
    root = write(tmp_path / "set", samples)
    found = list(webdataset.WebDataset(str(root / "train-00000.tar"), shardshuffle=False))
    assert [(s["__key__"], s["png"], int(s["cls"])) for s in found] == [(s.key, s.image, s.label) for s in samples]
