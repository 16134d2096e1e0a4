"""Ranks that were started together run in one folder, which rank 0 has taken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iwin.errors import DataError
from iwin.train.meeting import _is_there, all_make, take_folder
from iwin.train.run_folder import RunFolder

PROGRAM = Path(__file__).with_name("meeting_ranks.py")
PATIENCE_S = 120.0


def test_alone_a_process_takes_its_own(tmp_path: Path) -> None:
    folder = take_folder(lambda meanwhile: RunFolder.take(tmp_path / "run", 0, meanwhile=meanwhile))
    assert folder is not None
    with folder:
        assert (folder.path, folder.leads) == (tmp_path / "run", True)


def test_alone_a_process_says_itself_what_it_cannot_make() -> None:
    assert all_make(lambda: 3) == 3
    with pytest.raises(DataError, match=r"^no data$"):
        all_make(lambda: refuse(DataError("no data")))


def refuse(error: Exception) -> None:
    raise error


def test_a_folder_that_does_not_come_is_not_there(tmp_path: Path) -> None:
    assert _is_there(tmp_path, 0.0)
    assert not _is_there(tmp_path / "none", 0.0)


@pytest.fixture(scope="module")
def got(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, list[str]]]]:
    """What two ranks got in each situation of meeting_ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [subprocess.Popen([sys.executable, str(PROGRAM), str(rank), str(folder)]) for rank in range(2)]
    assert [rank.wait(PATIENCE_S) for rank in ranks] == [0, 0]
    return folder, [json.loads((folder / f"got-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), [("new", "new"), ("used", "used-2")])
def test_rank_0_takes_it_and_the_other_is_told(got, case: str, name: str) -> None:
    folder, ranks = got
    assert [rank[case] for rank in ranks] == [[str(folder / name), "True"], [str(folder / name), "False"]]


@pytest.mark.slow
def test_what_rank_0_knows_all_do(got) -> None:
    """That the run has finished; that it waits, for longer than the ranks would for a rank that is lost."""
    folder, ranks = got
    assert [rank["finished"] for rank in ranks] == [["nothing", ""]] * 2
    assert ranks[1]["heard"] == ["waiting"] * 3 + ["taken"]
    assert [rank["waited for"] for rank in ranks] == [[str(folder / "free"), "True"], [str(folder / "free"), "False"]]


@pytest.mark.slow
def test_what_one_rank_cannot_make_none_does(got) -> None:
    _, ranks = got
    assert [rank["made"] for rank in ranks] == [["refused", "rank 1: no data here"], ["refused", "no data here"]]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_lost(tmp_path: Path, rank: int) -> None:
    """So the others end, in words, and with the code that a job is requeued for."""
    step = {"STEP_ID": 0, "STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "STEP_TASKS_PER_NODE": 2, "NODEID": 0, "JOB_ID": 1}
    step |= {"PROCID": rank, "LOCALID": rank}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    environment |= {f"SLURM_{name}": str(value) for name, value in step.items()}
    options = ("trainer.accelerator=cpu", "trainer.devices=auto", "callbacks.heartbeat.setup_s=1")
    done = subprocess.run(
        [sys.executable, "train.py", *options, f"paths.runs_dir={tmp_path}"],
        cwd=PROGRAM.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 69, done.stderr
    assert "Traceback" not in done.stderr
    came = "1" if rank == 0 else "not all"
    assert f"error: rank {rank}: {came} of the 2 ranks of this run have come together within 1 s" in done.stderr
    assert not list(tmp_path.iterdir())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [("unwritable", "cannot write the run folder"), ("unseen", "rank 1 does not see the run folder")],
)
def test_where_one_cannot_all_refuse(got, case: str, message: str) -> None:
    _, ranks = got
    for what, why in (rank[case] for rank in ranks):
        assert what == "refused"
        assert message in why
        assert "paths.runs_dir" in why
