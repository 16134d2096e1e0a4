"""Ranks that were started together run in one folder, which rank 0 has taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from iwin.train.meeting import _is_there, take_folder

PROGRAM = Path(__file__).with_name("meeting_ranks.py")
PATIENCE_S = 120.0


def test_alone_a_process_takes_its_own(tmp_path: Path) -> None:
    with take_folder(tmp_path / "run", 0) as folder:
        assert (folder.path, folder.leads) == (tmp_path / "run", True)


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
