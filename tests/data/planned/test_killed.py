"""`iwin shards write` killed at any moment goes on, and ends with the files of a run that was not killed."""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path

import pytest
from planned_set import at_event, forked_run, tree, write

from iwin.data.folder import ImageFiles
from iwin.data.index import index_path
from iwin.data.unfinished import UNFINISHED
from iwin.errors import DataError

KILLED = -signal.SIGKILL


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
