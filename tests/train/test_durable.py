"""What fails, and when: no valid checkpoint is lost by it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_checkpoints import content, value

from iwin.train.checkpoint import DurableCheckpointIO, SaveError
from iwin.train.durable import link_checkpoint, put_checkpoint, remove_checkpoint
from iwin.train.recovery import read_checkpoint, recover, update_name
from iwin.weights.digest import damage, digest_file

SYSTEM_CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir")


@pytest.fixture
def io() -> Iterator[DurableCheckpointIO]:
    made = DurableCheckpointIO()
    yield made
    made.teardown()


def saved_twice(folder: Path) -> None:
    """Two checkpoints and the best, as a run leaves them."""
    for update in (1, 2):
        put_checkpoint(folder / update_name(update), lambda sink, u=update: torch.save(content(u), sink))
    link_checkpoint(folder / update_name(1), folder / "best.ckpt")


def assert_none_lost(folder: Path) -> None:
    for name, expected in ((update_name(1), 1), (update_name(2), 2), ("best.ckpt", 1)):
        assert damage(folder / name) is None
        assert value(folder / name) == expected


class Failing:
    """The `nth` call of the system fails, and the ones before do what they should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.calls = 0
        for name in SYSTEM_CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name), nth, name))

    def _counted(self, call: Callable, nth: int, name: str) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                raise OSError(errno.EIO, f"{name} fails")
            return call(*args, **kwargs)

        return counted


def test_content_is_on_the_disk_before_it_has_its_name_and_names_are_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recorded(name: str, call: Callable) -> Callable:
        def record(*args: Any, **kwargs: Any) -> Any:
            if calls[-1:] != [name]:
                calls.append(name)
            return call(*args, **kwargs)

        return record

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    put_checkpoint(tmp_path / "x.ckpt", lambda sink: torch.save(content(1), sink))
    assert calls == ["write", "fsync", "write", "fsync", "replace", "fsync", "replace", "fsync"]


def test_whatever_system_call_fails_no_valid_checkpoint_is_lost(tmp_path: Path) -> None:
    nth, failed = 0, 0
    while True:
        nth += 1
        folder = tmp_path / str(nth)
        saved_twice(folder)
        io = DurableCheckpointIO()

        def settle(path: Path, folder: Path = folder) -> None:
            link_checkpoint(path, folder / "best.ckpt")
            remove_checkpoint(folder / update_name(1))

        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, nth)
            io.save_checkpoint(content(3), folder / update_name(3), settle)
            try:
                io.wait()
            except SaveError:
                failed += 1
        for file in folder.glob("*.ckpt"):
            assert damage(file) is None, (nth, file)
        assert value(folder / update_name(2)) == 2
        assert (folder / update_name(1)).exists() or value(folder / update_name(3)) == 3
        assert value(folder / "best.ckpt") in (1, 3)
        recovery = recover(folder)
        assert recovery.checkpoint in (folder / update_name(2), folder / update_name(3))
        assert not [note for note in recovery.notes if "Passed over" in note]
        assert not list(folder.glob("*.new"))
        if failing.calls < nth:
            break
    assert failed == nth - 1 > 20, "every call's failure is told"


def test_a_full_disk_costs_no_checkpoint(io: DurableCheckpointIO, tmp_path: Path) -> None:
    """Here the limit is on a file's size, which any user can set."""
    saved_twice(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        io.save_checkpoint(content(3, size=100_000), tmp_path / update_name(3))
        with pytest.raises(SaveError, match="File too large"):
            io.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_none_lost(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    io.save_checkpoint(content(3, size=100_000), tmp_path / update_name(3))
    io.wait()
    assert value(tmp_path / update_name(3)) == 3


def test_no_space_left_costs_no_checkpoint(io: DurableCheckpointIO, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    try:
        saved_twice(folder)
        io.save_checkpoint(content(3, size=100_000), folder / update_name(3))
        with pytest.raises(SaveError, match="No space left on device"):
            io.wait()
        assert_none_lost(folder)
        assert not list(folder.glob("*.new"))
        io.save_checkpoint(content(3), folder / update_name(3))
        io.wait()
        assert value(recover(folder).checkpoint) == 3
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    saved_twice(tmp_path)
    assert_none_lost(tmp_path)
    assert not (tmp_path / "best.ckpt").samefile(tmp_path / update_name(1))


def test_a_checkpoint_written_again_takes_its_own_place(tmp_path: Path) -> None:
    saved_twice(tmp_path)
    put_checkpoint(tmp_path / update_name(2), lambda sink: torch.save(content(9), sink))
    link_checkpoint(tmp_path / update_name(1), tmp_path / "best.ckpt")  # to what it is already
    assert damage(tmp_path / update_name(2)) is None
    assert value(tmp_path / update_name(2)) == 9
    assert len(digest_file(tmp_path / update_name(2)).read_text().splitlines()) == 1
    assert damage(tmp_path / "best.ckpt") is None
    assert len(list(tmp_path.iterdir())) == 6


def test_reading_a_checkpoint_that_is_being_replaced_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.ckpt"
    put_checkpoint(path, lambda sink: torch.save(content(1), sink))
    fstat, replaced = os.fstat, []

    def fstat_and_replace(descriptor: int) -> os.stat_result:
        if not replaced:  # the file has been read, its sha256 has not
            replaced.append(True)
            put_checkpoint(path, lambda sink: torch.save(content(2), sink))
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", fstat_and_replace)
    assert damage(path) is None
    assert read_checkpoint(path)["state_dict"]["w"][0] == 2


@pytest.mark.slow
def test_200_kills_while_saving_lose_no_checkpoint(tmp_path: Path) -> None:
    """At every system call of several saves in a row, from one warmed parent."""
    script = Path(__file__).with_name("kill_saving.py")
    done = subprocess.run([sys.executable, script, tmp_path, "200"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("200 kills, 0 valid checkpoints lost, ")
