from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_images import square

from iwin.data.index import ShardIndex, index_path, write_index
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import DataError

IMAGE = square(9)


def make_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    samples = [Sample(f"dir/key-{i}", square(i), "png", i % 3) for i in range(10)]
    with DataSetWriter(tmp_path / "set", classes=["a", "b", "c"], about={}) as writer:
        writer.write_split("train", samples, samples_per_shard=10)
    return tmp_path / "set" / "train-00000.tar"


def test_an_index_finds_every_sample_of_what_was_written(shard: Path) -> None:
    index = ShardIndex(shard)
    data = shard.read_bytes()
    assert [index.keys[i] for i in range(10)] == [f"dir/key-{i}" for i in range(10)]
    assert index.labels.tolist() == [i % 3 for i in range(10)]
    for i in range(10):
        start = int(index.offsets[i])
        assert data[start : start + int(index.sizes[i])] == square(i)


def test_an_index_takes_16_bytes_a_sample_besides_its_key(shard: Path) -> None:
    keys = sum(len(f"dir/key-{i}") for i in range(10))
    assert index_path(shard).stat().st_size == 64 + 10 * 16 + keys


def test_an_index_pickles_as_a_path(shard: Path) -> None:
    text = pickle.dumps(ShardIndex(shard))
    assert len(text) < 500
    assert np.array_equal(pickle.loads(text).offsets, ShardIndex(shard).offsets)


def test_a_missing_index_names_the_command(shard: Path) -> None:
    index_path(shard).unlink()
    with pytest.raises(DataError, match=f"iwin shards index {shard.parent}"):
        ShardIndex(shard)


def test_a_shard_that_lost_bytes_since_is_named_with_the_command(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train-00000.tar .*iwin shards index"):
        ShardIndex(shard)


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_index_is_refused(shard: Path, damage) -> None:
    index_path(shard).write_bytes(damage(index_path(shard).read_bytes()))
    with pytest.raises(DataError, match=r"train-00000.idx .*iwin shards index"):
        ShardIndex(shard)


def test_an_index_that_points_outside_is_refused(shard: Path) -> None:
    data = bytearray(index_path(shard).read_bytes())
    data[64:72] = (2**40).to_bytes(8, "little")
    index_path(shard).write_bytes(data)
    with pytest.raises(DataError, match="points past the end"):
        ShardIndex(shard)


def test_a_shard_cut_anywhere_is_refused_with_its_path_and_byte(shard: Path) -> None:
    whole = shard.read_bytes()
    end = int(ShardIndex(shard).offsets[-1]) + 512  # after the last image, which stands behind its label
    for size in range(0, end + 1, 256):
        shard.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"train-00000.tar: at byte \d+"):
            write_index(shard)


def test_a_damaged_header_between_members_is_not_taken_for_the_end(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    header = int(ShardIndex(shard).offsets[5]) - 512
    data[header + 3] ^= 1
    shard.write_bytes(data)
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 11  # what Python's tarfile makes of it: half of the shard, without a word
    with pytest.raises(DataError, match=f"at byte {header}: a damaged header"):
        write_index(shard)


def test_a_failed_index_leaves_the_old_one(shard: Path) -> None:
    before = index_path(shard).read_bytes()
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError):
        write_index(shard)
    assert index_path(shard).read_bytes() == before
    assert sorted(path.suffix for path in shard.parent.iterdir()) == [".idx", ".json", ".tar"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_foreign_shard_in_any_tar_format(tmp_path: Path, format: int) -> None:
    deep = "n01440764/" + "d" * 60 + "/" + "k" * (60 if format == tarfile.USTAR_FORMAT else 140)
    tar = make_tar(
        tmp_path / "foreign.tar",
        [("a.cls", b"3\n"), ("a.json", b"{}"), ("a.JPEG", IMAGE), (f"{deep}.cls", b"0"), (f"{deep}.jpg", IMAGE)],
        format,
    )
    index = write_index(tar)
    assert [index.keys[0], index.keys[1]] == ["a", deep]
    assert index.labels.tolist() == [3, 0]
    start = int(index.offsets[1])
    assert tar.read_bytes()[start : start + int(index.sizes[1])] == IMAGE


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", IMAGE)], "'a' has no label"),
        ([("a.jpg", IMAGE), ("b.cls", b"1"), ("b.jpg", IMAGE)], "'a' has no label"),
        ([("a.cls", b"1")], "'a' has no image"),
        ([("a.cls", b"cat"), ("a.jpg", IMAGE)], "write a class number"),
        ([("a.cls", b"-1"), ("a.jpg", IMAGE)], "write a class number"),
        ([("a.cls", b"5"), ("a.jpg", IMAGE)], "must lie below 5"),
        ([("a.cls", b"1"), ("a.jpg", IMAGE), ("a.png", IMAGE)], "two images"),
        ([("a.cls", b"1"), ("a.jpg", IMAGE), ("a.cls", b"2")], "two labels"),
        ([("a.cls", b"1"), ("a.jpg", b"")], "is empty"),
        ([("a.cls", b"1"), ("a.jpg", IMAGE), ("b.cls", b"1"), ("b.jpg", IMAGE), ("a.txt", b"")], "comes again"),
        ([("README", b"hello")], "no <key>.<extension>"),
        ([], "holds no samples"),
    ],
)
def test_a_shard_that_is_not_whole_samples_is_refused(tmp_path: Path, members, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_index(make_tar(tmp_path / "bad.tar", members), num_classes=5)
    assert not (tmp_path / "bad.idx").exists()


def test_a_link_is_refused_and_a_folder_passed_over(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "one.tar", [("d/a.cls", b"1"), ("d/a.png", IMAGE)])
    with tarfile.open(tar, "a") as more:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        more.addfile(folder)
    assert len(write_index(tar)) == 1
    with tarfile.open(tar, "a") as more:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        more.addfile(link)
    with pytest.raises(DataError, match="is a link"):
        write_index(tar)


def test_two_archives_joined_end_to_end_are_refused(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "one.tar", [("a.cls", b"1"), ("a.png", IMAGE)])
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(DataError, match="data after the end-of-archive block"):
        write_index(tar)
