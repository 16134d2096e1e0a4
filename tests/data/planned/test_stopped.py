"""What a writing that was stopped leaves: gone on with as it is, and refused where it is of something else."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from planned_set import tree, write
from shards_command import iwin

from iwin.data import planned, unfinished
from iwin.data.index import write_index
from iwin.data.unfinished import UNFINISHED
from iwin.errors import DataError, ImageError


def test_an_interrupted_run_leaves_finished_files_and_the_plan(
    source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def interrupt(split: str, *rest: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planned, "manifest_split", interrupt)
        assert write(source, tmp_path / "set") == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert sorted(tree(tmp_path / "set")) == sorted({*whole, UNFINISHED} - {"manifest.json"})
    assert write(source, tmp_path / "set") == 0
    assert "of a run before, 3 shards were kept, and 0 damaged" in capsys.readouterr().out
    assert tree(tmp_path / "set") == whole


def test_an_error_stops_the_run_and_leaves_what_was_finished(
    source: Path, begun: Path, whole: dict[str, bytes]
) -> None:
    files = tree(begun)
    plan = json.loads(files.pop(UNFINISHED))
    assert files == {name: data for name, data in whole.items() if name.startswith("train-")}
    assert plan["splits"]["train"]["shards"] == 2
    assert write(source, begun) == 0
    assert tree(begun) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", 1), "seed was 0 and is 1"),
        (("--resize", 16), "encoders was not given and is .*quality was not given and is 95; resize was"),
        (("--val-fraction", 0.5), "val_fraction was 0.3 and is 0.5"),
        (("--samples-per-shard", 2), "samples_per_shard was 3 and is 2; splits.train.shards was 2 and is 3"),
    ],
)
def test_other_options_are_refused_by_name(
    source: Path, begun: Path, options: tuple[object, ...], message: str
) -> None:
    before = tree(begun)
    with pytest.raises(DataError, match=f"the beginning of another data set: .*{message}.* remove {begun}"):
        write(source, begun, *options)
    assert tree(begun) == before


def test_a_changed_source_is_refused(source: Path, begun: Path) -> None:
    image = source / "a" / "p0.jpg"
    data = image.read_bytes()
    try:
        image.write_bytes(data + b"\0")
        with pytest.raises(DataError, match=r"splits\.(train|val)\.source_sha256 differs\. .*on the same source"):
            write(source, begun)
        image.unlink()
        with pytest.raises(DataError, match=r"splits\.(train|val)\.images was"):
            write(source, begun)
    finally:
        image.write_bytes(data)


def test_where_nothing_was_finished_other_options_may_be_given(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "p0.jpg").write_bytes(b"no image")
    (tmp_path / "a.csv").write_text("a/p0.jpg,a,train\na/p1.jpg,a,val\n")
    (tmp_path / "a" / "p1.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"p[01]\.jpg is no JPEG"):
        iwin("shards", "write", tmp_path / "a.csv", tmp_path / "set", "--resize", 16, "--samples-per-shard", 9)
    assert tree(tmp_path / "set") == {}
    assert write(source, tmp_path / "set") == 0


def flip_a_pixel(root: Path) -> None:
    data = bytearray((root / "train-00001.tar").read_bytes())
    data[3000] ^= 1
    (root / "train-00001.tar").write_bytes(data)


def index_anew_what_is_changed(root: Path) -> None:
    (root / "train-00001.tar").write_bytes((root / "train-00000.tar").read_bytes())
    write_index(root / "train-00001.tar")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_pixel, "1 damaged"),
        (index_anew_what_is_changed, "1 damaged"),
        (lambda root: (root / "train-00001.tar").write_bytes(b""), "1 damaged"),
        (lambda root: (root / "train-00001.idx").write_bytes(b"x"), "1 damaged"),
        (lambda root: (root / "train-00001.idx").unlink(), "0 damaged"),
        (lambda root: (root / "train-00001.tar").unlink(), "0 damaged"),
    ],
)
def test_a_finished_shard_that_is_not_right_is_written_again(
    source: Path, begun: Path, whole: dict[str, bytes], damage: Callable[[Path], object], told: str, capsys
) -> None:
    damage(begun)
    assert write(source, begun) == 0
    assert f"1 shards were kept, and {told} ones" in capsys.readouterr().out
    assert tree(begun) == whole


def test_a_full_disk_is_told_and_what_is_finished_stays(
    source: Path, begun: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(planned, "write_shard", full)
        with pytest.raises(DataError, match=r"val-00000.tar cannot be written or read: No space left on device"):
            write(source, begun)
    assert write(source, begun) == 0
    assert tree(begun) == whole


def test_one_run_at_a_time_writes_to_a_folder(source: Path, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "TRIES", 2)
    monkeypatch.setattr(unfinished, "PAUSE_S", 0)
    with (begun / UNFINISHED).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing"):
            write(source, begun)
    assert write(source, begun) == 0


def test_a_folder_without_locks_is_told_and_written(
    source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(unfinished.fcntl, "flock", none)
    with pytest.warns(UserWarning, match="cannot be locked"):
        write(source, tmp_path / "set")
    assert tree(tmp_path / "set") == whole


def test_a_shard_that_is_not_in_the_plan_is_refused(source: Path, begun: Path) -> None:
    (begun / "train-00009.tar").touch()
    with pytest.raises(DataError, match=r"train-00009.tar is none of the shards"):
        write(source, begun)


def test_a_finished_data_set_is_refused_and_nothing_is_left_in_it(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "set")
    files = tree(tmp_path / "set")
    with pytest.raises(DataError, match="already holds a data set"):
        write(source, tmp_path / "set")
    (tmp_path / "set" / UNFINISHED).touch()  # as of a run that came a moment after another ended
    with pytest.raises(DataError, match="already holds a data set"):
        write(source, tmp_path / "set")
    assert tree(tmp_path / "set") == files
