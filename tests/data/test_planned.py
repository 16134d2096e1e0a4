"""`iwin shards write` ended at any moment goes on, and ends with the files of a run that was not ended."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import multiprocessing
import os
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded

from iwin.data import planned, unfinished
from iwin.data.folder import ImageFiles
from iwin.data.index import index_path, write_index
from iwin.data.shard_plan import PlannedShard, SplitPlan
from iwin.data.shrink import Shrink
from iwin.data.unfinished import UNFINISHED
from iwin.data.writer import Sample
from iwin.errors import DataError, ImageError
from iwin.tools.shards import add_parser

KILLED = -signal.SIGKILL


def iwin(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.func(arguments)


def write(source: Path, target: Path, *options: object) -> int:
    return iwin("shards", "write", source, target, "--val-fraction", 0.3, "--samples-per-shard", 3, *options)


def tree(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine JPEGs of 24 x 20 pixels in three classes: two shards for training and one for validation."""
    root = tmp_path_factory.mktemp("source")
    for number in range(9):
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (folder / f"p{number}.jpg").write_bytes(encoded(Image.fromarray(pixels), "JPEG"))
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that was not ended."""
    root = tmp_path_factory.mktemp("whole")
    write(source, root, "--jobs", 1)
    return tree(root)


@pytest.fixture(scope="module")
def stopped(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a run that could not read validation: both training shards, finished, and the plan."""
    root = tmp_path_factory.mktemp("stopped")

    def fails(plan: SplitPlan, shard: PlannedShard, shrink: Shrink | None) -> Iterator[Sample]:
        if shard.split == "val":
            raise DataError("restore it")
        yield from samples(plan, shard, shrink)

    samples = SplitPlan.samples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitPlan, "samples", fails)
        with pytest.raises(DataError, match="restore it"):
            write(source, root, "--jobs", 1)
    return root


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of what is left of the run that was stopped."""
    return shutil.copytree(stopped, tmp_path / "begun")


def forked_run(run: Callable[[], object], prepare: Callable[[], object]) -> int:
    """Run `run` in a process group of its own; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            prepare()
            run()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_event(count: int, action: Callable[[], object]) -> None:
    """Make this process, and those it forks, do `action` before its `count`-th change to the disk or read image."""
    left = multiprocessing.RawValue("i", count)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left.value -= 1
            if left.value == 0:
                action()
            return function(*arguments, **options)

        return call

    for owner, names in ((os, ["fsync", "write"]), (Path, ["replace", "unlink"]), (ImageFiles, ["read"])):
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))


def test_every_file_is_the_same_for_any_number_of_processes(source: Path, tmp_path: Path) -> None:
    for jobs in (1, 3):
        write(source, tmp_path / f"{jobs}", "--jobs", jobs, "--resize", 16)
    files = tree(tmp_path / "1")
    assert sorted(files) == [
        "manifest.json",
        *(f"train-0000{number}.{kind}" for number in range(2) for kind in ("idx", "tar")),
        "val-00000.idx",
        "val-00000.tar",
    ]
    assert tree(tmp_path / "3") == files


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_files(
    source: Path, tmp_path: Path, whole: dict[str, bytes], step: int
) -> None:
    kept = []
    for count in range(1, 1000, step):
        target = tmp_path / f"killed-{count}"
        code = forked_run(
            lambda target=target: write(source, target, "--jobs", 1),
            lambda count=count: at_event(count, lambda: os.killpg(0, signal.SIGKILL)),
        )
        if code == 0:
            break
        assert code == KILLED
        there = {path.name: path.stat().st_ino for path in target.glob("*.tar") if index_path(path).exists()}
        kept.append(len(there))
        if not (target / "manifest.json").exists() or (target / UNFINISHED).exists():
            assert write(source, target, "--jobs", 1) == 0
        assert tree(target) == whole
        assert {name: (target / name).stat().st_ino for name in there} == there  # not written again
    assert len(kept) > 30 / step
    assert kept == sorted(kept)
    assert set(kept) == {0, 1, 2, 3}


def test_two_kills_are_as_good_as_one(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    for count in (13, 25):
        code = forked_run(
            lambda: write(source, tmp_path / "set", "--jobs", 1),
            lambda count=count: at_event(count, lambda: os.killpg(0, signal.SIGKILL)),
        )
        assert code == KILLED
    write(source, tmp_path / "set")
    assert tree(tmp_path / "set") == whole


def test_processes_end_with_the_one_that_started_them(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    gone, held = os.pipe()

    def kill_the_first_process() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()  # what does not end by itself

    def prepare() -> None:
        os.close(gone)
        at_event(8, kill_the_first_process)

    assert forked_run(lambda: write(source, tmp_path / "set", "--jobs", 2), prepare) == KILLED
    os.close(held)
    assert select.select([gone], [], [], 30)[0], "a process outlived the one that started it"
    os.close(gone)
    assert write(source, tmp_path / "set", "--jobs", 2) == 0
    assert tree(tmp_path / "set") == whole


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


def test_a_killed_process_is_told_and_what_is_finished_stays(
    source: Path, begun: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "read", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(DataError, match=r"was killed.*same command again, with fewer --jobs"):
            write(source, begun, "--jobs", 1)
    assert {name for name in tree(begun) if name.endswith(".partial")} == set()
    assert write(source, begun) == 0
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
