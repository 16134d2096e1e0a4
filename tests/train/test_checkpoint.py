from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sample_checkpoints import content, value

from iwin.train import checkpoint as module
from iwin.train.checkpoint import DurableCheckpointIO, SaveError
from iwin.train.durable import put_checkpoint
from iwin.train.recovery import update_name
from iwin.weights.digest import damage, digest_file


@pytest.fixture
def io() -> Iterator[DurableCheckpointIO]:
    made = DurableCheckpointIO()
    yield made
    made.teardown()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The disk answers once this is set."""
    event = threading.Event()

    def slow(path: Path, fill: Callable) -> None:
        assert event.wait(60)
        put_checkpoint(path, fill)

    monkeypatch.setattr(module, "put_checkpoint", slow)
    return event


def test_what_is_saved_is_what_is_loaded_and_sha256sum_agrees(io: DurableCheckpointIO, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / update_name(7)
    saved = content(3)
    io.save_checkpoint(saved, path)
    io.wait()
    loaded = io.load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], saved["state_dict"]["w"])
    assert loaded["loops"] == saved["loops"]
    assert loaded["optimizer_states"][0]["betas"] == (0.9, 0.999)
    assert torch.equal(loaded["optimizer_states"][0]["moment"], torch.ones(4, 3))
    assert damage(path) is None
    subprocess.run(["sha256sum", "-c", digest_file(path).name], cwd=path.parent, check=True, capture_output=True)
    assert {file.name for file in path.parent.iterdir()} == {path.name, digest_file(path).name}


def test_the_versions_that_a_state_dict_carries_are_kept(io: DurableCheckpointIO, tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    io.save_checkpoint({"state_dict": state}, tmp_path / "x.ckpt")
    io.wait()
    assert io.load_checkpoint(tmp_path / "x.ckpt")["state_dict"]._metadata == state._metadata


def test_training_goes_on_while_the_disk_is_slow_and_does_not_reach_what_was_saved(
    io: DurableCheckpointIO, tmp_path: Path, gate: threading.Event
) -> None:
    live = content(1)
    io.save_checkpoint(live, tmp_path / "x.ckpt")  # returns, or the test hangs here
    assert not (tmp_path / "x.ckpt").exists()
    live["state_dict"]["w"].fill_(2)
    live["loops"]["done"].append("later")
    gate.set()
    io.wait()
    assert value(tmp_path / "x.ckpt") == 1
    assert len(io.load_checkpoint(tmp_path / "x.ckpt")["loops"]["done"]) == 5


def test_at_most_one_write_is_in_flight(
    io: DurableCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_asked, events = threading.Event(), []
    wait = io.wait

    def waits() -> None:
        events.append("asked")
        if events.count("asked") == 2:
            second_asked.set()
        wait()

    def writes(path: Path, fill: Callable) -> None:
        events.append(f"begin {path.stem}")
        assert second_asked.wait(60)
        events.append(f"end {path.stem}")

    monkeypatch.setattr(io, "wait", waits)
    monkeypatch.setattr(module, "put_checkpoint", writes)
    io.save_checkpoint(content(1), tmp_path / "1.ckpt")
    io.save_checkpoint(content(2), tmp_path / "2.ckpt")
    wait()
    order = [event for event in events if event != "asked"]
    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


@pytest.mark.parametrize("surfaces", ["save", "wait", "teardown"])
def test_an_error_of_the_writer_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surfaces: str) -> None:
    io = DurableCheckpointIO()

    def full(path: Path, fill: Callable) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(module, "put_checkpoint", full)
    io.save_checkpoint(content(1), tmp_path / "1.ckpt")
    calls = {"save": lambda: io.save_checkpoint(content(2), tmp_path / "2.ckpt"), "wait": io.wait}
    with pytest.raises(SaveError, match=r"1.ckpt could not be written: No space left on device. The older checkpoints"):
        calls.get(surfaces, io.teardown)()
    io.teardown()


def test_a_checkpoint_that_could_not_be_loaded_is_refused_when_it_is_saved(
    io: DurableCheckpointIO, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"checkpoint\['callbacks'\]\['x'\]\[1\] is a pathlib.PosixPath"):
        io.save_checkpoint({"callbacks": {"x": [1, tmp_path]}}, tmp_path / "x.ckpt")


def test_nothing_is_loaded_but_plain_values(io: DurableCheckpointIO, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights_only"):
        io.load_checkpoint(tmp_path / "x.ckpt", weights_only=False)


def test_the_folder_for_temporary_files_plays_no_part(
    io: DurableCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    io.save_checkpoint(content(1), tmp_path / "x.ckpt")
    io.wait()
    assert damage(tmp_path / "x.ckpt") is None


def test_a_temporary_folder_on_another_file_system_stays_empty(
    io: DurableCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no /dev/shm that is another file system")
    with tempfile.TemporaryDirectory(dir=other) as elsewhere:
        monkeypatch.setenv("TMPDIR", elsewhere)
        monkeypatch.setattr(tempfile, "tempdir", None)
        before = Path(elsewhere).stat().st_mtime_ns
        io.save_checkpoint(content(1), tmp_path / "x.ckpt")
        io.wait()
        assert Path(elsewhere).stat().st_mtime_ns == before
    assert damage(tmp_path / "x.ckpt") is None


@pytest.mark.slow
def test_the_process_does_not_end_before_the_write(tmp_path: Path) -> None:
    code = (
        "import sys, threading, torch, iwin.train.checkpoint as m\n"
        "put, main = m.put_checkpoint, threading.main_thread()\n"
        "def late(path, fill):\n"
        "    main.join(60)  # the last line has run\n"
        "    put(path, fill)\n"
        "m.put_checkpoint = late\n"
        "m.DurableCheckpointIO().save_checkpoint({'a': torch.ones(3)}, sys.argv[1])\n"
        "sys.exit(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.ckpt"], timeout=120, check=False)
    assert done.returncode == 5
    assert damage(tmp_path / "x.ckpt") is None
