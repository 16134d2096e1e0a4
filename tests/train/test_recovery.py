from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import iwin
from iwin.errors import ConfigError, WeightsError
from iwin.train.durable import link_checkpoint, put_checkpoint, remove_checkpoint
from iwin.train.recovery import Recovery, recover, update_checkpoints, update_name
from iwin.train.run_folder import find_checkpoint
from iwin.weights.digest import digest_file


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def put(path: Path, **more: Any) -> None:
    update = int(path.stem.removeprefix("update-")) if path.stem != "best" else 0
    state = {"w": torch.full((1000,), float(update))}
    content = {"state_dict": state, "loops": {}, "optimizer_states": [], "global_step": update, **more}
    put_checkpoint(path, lambda sink: torch.save(content, sink))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of updates 1, 2, 3, and the best, which is update 1."""
    folder = tmp_path / "run" / "checkpoints"
    for update in (1, 2, 3):
        put(folder / update_name(update))
    link_checkpoint(folder / update_name(1), folder / "best.ckpt")
    return folder


def damages(size: int) -> list[tuple[str, int]]:
    draw = random.Random(0)
    cuts = [("cut", size * part // 20) for part in range(20)]
    return cuts + [("flip", draw.randrange(8 * size)) for _ in range(100)]


def test_every_damage_is_found_and_the_checkpoint_before_is_used(folder: Path) -> None:
    """Truncation at 20 offsets, and 100 random flips of a bit."""
    newest = folder / update_name(3)
    sound = newest.read_bytes()
    sha = digest_file(newest).read_text()
    for number, (kind, where) in enumerate(damages(len(sound)), start=1):
        broken = bytearray(sound)
        if kind == "cut":
            broken = broken[:where]
        else:
            broken[where // 8] ^= 1 << where % 8
        newest.write_bytes(broken)
        digest_file(newest).write_text(sha)
        recovery = recover(folder)
        aside = f"{newest.name}.damaged" + (f"-{number}" if number > 1 else "")
        assert recovery.checkpoint == folder / update_name(2), (kind, where)
        (note,) = recovery.notes
        assert note.startswith(f"Passed over {newest.name}: its content is not what was saved"), (kind, where)
        assert note.endswith(f"It is kept as {aside}.")
        assert (folder / aside).read_bytes() == broken, "set aside, never deleted"
        assert digest_file(folder / aside).read_text() == sha
    assert recover(folder) == Recovery(folder / update_name(2))


@pytest.mark.parametrize(
    ("sha", "why"),
    [
        (None, "update-00000003.ckpt.sha256, its hash, is missing"),
        (b"", "update-00000003.ckpt.sha256 holds no hash"),
        (b"\xff\xfe torn", "update-00000003.ckpt.sha256 holds no hash"),
        (b"0" * 64 + b"  update-00000003.ckpt\n", "its sha256 is not the one in update-00000003.ckpt.sha256"),
    ],
)
def test_a_checkpoint_without_its_hash_is_not_trusted(folder: Path, sha: bytes | None, why: str) -> None:
    beside = digest_file(folder / update_name(3))
    beside.unlink() if sha is None else beside.write_bytes(sha)
    recovery = recover(folder)
    assert recovery.checkpoint == folder / update_name(2)
    assert why in recovery.notes[0]


def test_a_pickle_that_would_run_something_is_passed_over_and_does_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    put_checkpoint(folder / update_name(4), lambda sink: torch.save({"state_dict": Attack(marker)}, sink))
    put_checkpoint(folder / update_name(5), lambda sink: sink.write(pickle.dumps(Attack(marker))))
    recovery = recover(folder)
    assert recovery.checkpoint == folder / update_name(3)
    assert len(recovery.notes) == 2
    assert all("it cannot be loaded as plain values and tensors" in note for note in recovery.notes)
    assert not marker.exists()


def test_weights_alone_are_nothing_to_go_on_from(folder: Path) -> None:
    put_checkpoint(folder / update_name(4), lambda sink: torch.save({"state_dict": {}}, sink))
    recovery = recover(folder)
    assert recovery.checkpoint == folder / update_name(3)
    assert "it has no loops, optimizer_states" in recovery.notes[0]


def test_the_best_checkpoint_is_the_last_resort_and_then_the_beginning(folder: Path) -> None:
    for update in (2, 3):
        (folder / update_name(update)).write_bytes(b"torn")
    remove_checkpoint(folder / update_name(1))
    recovery = recover(folder)
    assert recovery.checkpoint == folder / "best.ckpt"
    assert len(recovery.notes) == 2
    (folder / "best.ckpt").write_bytes(b"torn")
    recovery = recover(folder)
    assert recovery.checkpoint is None
    assert "best.ckpt.damaged" in recovery.notes[0]
    assert recover(folder) == Recovery(None)
    assert recover(folder / "absent") == Recovery(None)


def test_a_checkpoint_of_a_newer_version_is_an_error_and_stays(folder: Path) -> None:
    put(folder / update_name(4), iwin={"version": "99.1.0", "config": {}})
    before = sorted(folder.iterdir())
    with pytest.raises(WeightsError, match=rf"written by iwin 99.1.0, and this is {iwin.__version__}.*update iwin"):
        recover(folder)
    assert sorted(folder.iterdir()) == before


def test_what_a_kill_left_behind_is_removed_and_told(folder: Path) -> None:
    before = sorted(folder.iterdir())
    (folder / "update-00000004.ckpt.new").write_bytes(b"half")
    (folder / "update-00000004.ckpt.sha256").write_text("0" * 64)
    (folder / "update-00000005.ckpt.sha256.new").write_text("0")
    recovery = recover(folder)
    assert recovery.checkpoint == folder / update_name(3)
    assert recovery.notes == ("Saving update-00000004.ckpt was cut short: what there was of it is removed.",)
    assert sorted(folder.iterdir()) == before


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    names = ["update-99999999.ckpt", "update-100000000.ckpt", "update-00000005.ckpt"]
    for name in [*names, "update-5.ckpt", "update-00000006.ckpt.damaged", "update-00000007.ckpt.new", "other.ckpt"]:
        (tmp_path / name).touch()
    assert [file.name for file in update_checkpoints(tmp_path)] == [names[1], names[0], names[2]]


def test_an_evaluation_takes_the_best_and_else_the_newest_and_leaves_the_folder_alone(folder: Path) -> None:
    run, said = folder.parent, []
    assert find_checkpoint(str(run)) == folder / "best.ckpt"
    (folder / "best.ckpt").unlink()
    assert find_checkpoint(str(run)) == folder / update_name(3)
    (folder / update_name(3)).write_bytes(b"torn")
    before = sorted(folder.iterdir())
    assert find_checkpoint(str(run), said.append) == folder / update_name(2)
    assert len(said) == 1
    assert said[0].startswith("Passed over update-00000003.ckpt: its content is not what was saved")
    assert sorted(folder.iterdir()) == before
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match=r"no sound checkpoints/best.ckpt or update-\*.ckpt"):
        find_checkpoint(str(run))
