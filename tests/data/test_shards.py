from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from tiny_images import square

from iwin.data.shards import READ_AT_ONCE, OpenFiles, ShardDataset, ShardFolder
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DataSetWriter(tmp_path / "set", classes=["a"], about={}) as writer:
        writer.write_split("val", (Sample(f"k{i}", square(i), "png", 0) for i in range(30)), samples_per_shard=3)
    return tmp_path / "set"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_files_are_open_at_a_time(root: Path) -> None:
    data = ShardDataset(ShardFolder(root), "*.tar", None, None)
    data._files = OpenFiles(data.place.open, limit=4)
    before = open_files()
    assert [data.read(i) for i in (*range(30), 0, 15)] == [square(i) for i in (*range(30), 0, 15)]
    assert open_files() == before + 4
    del data._files
    assert open_files() == before


@pytest.mark.parametrize("size", [0, 1, 2**17, 3 * 2**17 + 512])
def test_a_shard_that_will_be_needed_whole_is_asked_for_in_pieces_from_its_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * size)
    asked: list[tuple[int, int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: asked.append(call))
    os.close(ShardFolder(tmp_path).open("a.tar"))
    assert asked == []
    descriptor = ShardFolder(tmp_path, whole=True).open("a.tar")
    os.close(descriptor)
    assert {(call[0], call[3]) for call in asked} <= {(descriptor, os.POSIX_FADV_WILLNEED)}
    ends = [0, *(start + length for _, start, length, _ in asked)]
    assert [start for _, start, _, _ in asked] == ends[:-1]
    assert ends[-2 if size else -1] <= size <= ends[-1]
    assert all(0 < length <= READ_AT_ONCE for _, _, length, _ in asked)


def test_a_pickled_data_set_reads_on(root: Path) -> None:
    data = ShardDataset(ShardFolder(root), "*.tar", None, None)
    data.read(3)
    assert pickle.loads(pickle.dumps(data)).read(17) == square(17)


def test_a_forked_process_and_its_parent_read_on(root: Path) -> None:
    data = ShardDataset(ShardFolder(root), "*.tar", None, None)
    data.read(3)
    child = os.fork()
    if child == 0:
        os._exit(0 if [data.read(i) for i in range(30)] == [square(i) for i in range(30)] else 1)
    assert [data.read(i) for i in range(30)] == [square(i) for i in range(30)]
    assert os.waitpid(child, 0)[1] == 0


def test_a_shard_that_shrinks_under_way_is_an_error(root: Path) -> None:
    data = ShardDataset(ShardFolder(root), "*.tar", None, None)
    os.truncate(root / "val-00009.tar", 600)
    with pytest.raises(DataError, match=r"val-00009.tar ended inside 'k29'"):
        data.read(29)


@pytest.mark.parametrize("index", [-1, 30])
def test_there_are_no_samples_outside(root: Path, index: int) -> None:
    with pytest.raises(IndexError):
        ShardDataset(ShardFolder(root), "*.tar", None, None).read(index)


def test_an_image_that_cannot_be_decoded_is_named_by_shard_and_key(tmp_path: Path) -> None:
    with DataSetWriter(tmp_path, classes=["a"], about={}) as writer:
        writer.write_split("val", [Sample("broken", b"no image", "jpg", 0)], samples_per_shard=3)
    with pytest.raises(DataError, match=r"image val-00000.tar:broken is no JPEG"):
        ShardDataset(ShardFolder(tmp_path), "*.tar", None, None).encoded(0)
