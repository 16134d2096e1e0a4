"""`iwin sync` sends the parts of offline runs in their order, once, and says what it could not."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iwin.tools import sync
from iwin.tools.cli import main
from iwin.tools.sync import find_runs, run_id
from iwin.train import run_folder

CHECKOUT = Path(__file__).parents[2]
PATIENCE_S = 300.0
# Stands in for `python -m wandb`: notes how it was called, and marks as W&B does what the test lets it send.
FAKE = """
import json, os, sys
from pathlib import Path
here = Path(os.environ["FAKE_WANDB"])
with (here / "calls.txt").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
folder = Path(sys.argv[-1])
if not folder.match(os.environ.get("FAKE_FAILS", "nothing")):
    (part,) = folder.glob("*.wandb")
    part.with_name(part.name + ".synced").touch()
    sys.exit(0)
print("wandb: Syncing 1 run(s)")
print("wandb: Not authenticated.", file=sys.stderr)  # which W&B ends with 0
"""


class Fake:
    """What the stand-in was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.txt"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A stand-in for the program, and a server that can be reached."""
    package = tmp_path / "fake" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("FAKE_WANDB", str(package.parent))
    monkeypatch.setattr("iwin.tools.sync.server_url", lambda: f"http://127.0.0.1:{server.getsockname()[1]}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Fake(package.parent)


def offline(folder: Path, *starts: str) -> list[Path]:
    """A run with a part for each start; their folders."""
    folders = [folder / "wandb" / f"offline-run-{start}-{folder.name}" for start in starts]
    for part in folders:
        part.mkdir(parents=True)
        (part / f"run-{folder.name}.wandb").touch()
    return folders


def test_the_parts_of_a_run_go_under_its_id_in_the_order_of_their_starts(
    tmp_path: Path, wandb: Fake, capsys: pytest.CaptureFixture
) -> None:
    late, early = offline(tmp_path / "runs" / "b-1f", "20260102_000000", "20260101_235959")
    (other,) = offline(tmp_path / "runs" / "sweep" / "lr=1-2e", "20260101_000000")
    assert main(["sync", str(tmp_path / "runs")]) == 0
    assert wandb.calls() == [
        ["sync", "--id", "b-1f", str(early)],
        ["sync", "--id", "b-1f", str(late)],
        ["sync", "--id", "lr=1-2e", str(other)],
    ]
    assert capsys.readouterr().out.splitlines() == [
        "b-1f  part 1 of 2  sent",
        "b-1f  part 2 of 2  sent",
        "lr=1-2e  part 1 of 1  sent",
        "2 runs: 3 parts sent.",
    ]


def test_what_was_sent_is_not_sent_again(tmp_path: Path, wandb: Fake, capsys: pytest.CaptureFixture) -> None:
    offline(tmp_path / "a", "20260101_000000")
    assert main(["sync", str(tmp_path / "a")]) == 0
    offline(tmp_path / "a", "20260102_000000")
    assert main(["sync", str(tmp_path / "a")]) == 0
    assert main(["sync", str(tmp_path / "a")]) == 0
    assert len(wandb.calls()) == 2
    assert "a  part 1 of 2  was sent before\na  part 2 of 2  was sent before\n1 runs: there is nothing new" in (
        capsys.readouterr().out
    )


def test_after_a_part_that_could_not_be_sent_no_later_one_is(
    tmp_path: Path, wandb: Fake, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path / "a", "20260101_000000", "20260102_000000")
    offline(tmp_path / "b", "20260101_000000")
    monkeypatch.setenv("FAKE_FAILS", "*20260101_000000-a")
    assert main(["sync", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "a  part 1 of 2  could not be sent: wandb: Syncing 1 run(s) / wandb: Not authenticated." in told.out
    assert "b  part 1 of 1  sent" in told.out
    assert "error: 1 of 2 runs could not be sent whole: a." in told.err
    monkeypatch.delenv("FAKE_FAILS")
    assert main(["sync", str(tmp_path)]) == 0
    assert [Path(call[-1]).name[12:20] for call in wandb.calls() if call[2] == "a"] == [
        "20260101",
        "20260101",
        "20260102",
    ]


def test_what_a_running_job_still_writes_is_left(tmp_path: Path, wandb: Fake, capsys: pytest.CaptureFixture) -> None:
    assert sync.LOCK == run_folder.LOCK
    early, late = offline(tmp_path / "a", "20260101_000000", "20260102_000000")
    with (tmp_path / "a" / sync.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["sync", str(tmp_path)]) == 0
    assert [call[-1] for call in wandb.calls()] == [str(early)]
    assert "a  part 2 of 2  is left, as it is still running" in capsys.readouterr().out
    assert main(["sync", str(tmp_path)]) == 0
    assert [call[-1] for call in wandb.calls()] == [str(early), str(late)]


def test_without_a_network_nothing_is_begun(
    tmp_path: Path, wandb: Fake, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path / "a", "20260101_000000")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # that nobody listens at, once this is closed
    monkeypatch.setattr("iwin.tools.sync.server_url", lambda: f"http://127.0.0.1:{port}")
    assert main(["sync", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"error: http://127.0.0.1:{port} cannot be reached from here" in error
    assert "run iwin sync on a machine with a network" in error
    assert wandb.calls() == []


def test_where_there_is_nothing_it_says_what_it_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["sync", str(tmp_path / "runs")]) == 2
    assert "logger.wandb.mode=offline" in capsys.readouterr().err
    assert main(["sync", str(tmp_path / "run")]) == 2
    assert "did you mean runs?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_stopped_has_its_parts_under_one_id_with_its_configuration(tmp_path: Path) -> None:
    """As train.py and the real client leave them."""
    short = [
        "duration=2ep",
        "trainer.limit_train_batches=4",
        "data.num_workers=0",
        "log_every=1st",
        "schedule.warmup=1st",
    ]
    command = [sys.executable, "train.py", f"paths.runs_dir={tmp_path}", "logger=wandb", *short]
    command += ["+callbacks.progress.every_s=0", "callbacks.preemption.every=1st", "data.batch_size=8"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    codes = []
    for stops in (True, False):
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert process.stdout is not None
        if stops:
            while "update 2/8" not in (line := process.stdout.readline().decode()):
                assert line
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        codes.append(process.returncode)
    assert codes == [75, 0]
    (run,) = find_runs([tmp_path])
    assert [run_id(part) for part in run.parts] == [run.folder.name] * 2
    assert run.due == run.parts
    for part in run.parts:
        assert b"limit_train_batches" in part.read_bytes()  # of the configuration, which nothing else here holds
        tried = subprocess.run([*sync.command(part), "--dry-run"], env=env, capture_output=True, text=True)
        assert "Would sync 1 run" in tried.stdout + tried.stderr  # W&B takes the command
