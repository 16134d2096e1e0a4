"""Three updates in a row that are not finite send a run back, and then stop it."""

from __future__ import annotations

from pathlib import Path

import pytest
from nonfinite_runs import BATCH, THREE, UPDATES, everything, make_and_train, same

from iwin.train.callbacks.nonfinite import NonFiniteError, read_nonfinite
from iwin.train.rollback import read_roll_backs


def test_three_in_a_row_go_back_to_the_checkpoint_and_on_in_another_order(tmp_path: Path) -> None:
    trainer, (first, second) = make_and_train(tmp_path, THREE, (4,))
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]
    assert [(attempt, update) for attempt, update, _ in first.seen] == [(0, update) for update in range(1, 8)]
    assert [(attempt, update) for attempt, update, _ in second.seen] == [(1, update) for update in range(5, 11)]
    assert {indices for *_, indices in second.seen}.isdisjoint(indices for *_, indices in first.seen)
    assert trainer.callback_metrics["train/skipped"] == 0, "none was skipped on the way to these weights"
    assert [row[:2] for row in read_nonfinite(tmp_path / "nonfinite.csv")[::BATCH]] == sorted(THREE)


def test_without_a_checkpoint_it_goes_back_to_the_beginning(tmp_path: Path) -> None:
    _, (_, second) = make_and_train(tmp_path, THREE, ())
    assert [(attempt, update) for attempt, update, _ in second.seen] == [(1, u) for u in range(1, UPDATES + 1)]


@pytest.mark.parametrize("die", [3, 4, 6, 8])
def test_a_run_killed_before_or_after_going_back_ends_the_same(tmp_path: Path, die: int) -> None:
    """Update 6 is in the middle of the row; 8 comes after going back, with no checkpoint of the new attempt."""
    whole, _ = make_and_train(tmp_path / "whole", THREE, (2, 4))
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path / "cut", THREE, (2, 4), die=die)
    resumed, tasks = make_and_train(tmp_path / "cut", THREE, (2, 4))
    assert same(everything(whole), everything(resumed))
    assert read_roll_backs(tmp_path / "cut") == read_roll_backs(tmp_path / "whole")
    assert (tmp_path / "cut" / "nonfinite.csv").read_bytes() == (tmp_path / "whole" / "nonfinite.csv").read_bytes()
    assert len(tasks) == (1 if die == 8 else 2), "what failed is not done again after going back"


def test_a_row_that_a_checkpoint_lies_in_is_one_row(tmp_path: Path) -> None:
    """The checkpoint of update 6 has the weights of update 4: the run goes back to it, and counts from none again."""
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path, THREE, (6,), die=6)
    _, (first, second) = make_and_train(tmp_path, THREE, (6,))
    assert [seen[:2] for seen in first.seen] == [(0, 7)]
    assert [seen[:2] for seen in second.seen] == [(1, update) for update in range(7, UPDATES + 1)]
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]


def test_verdicts_that_come_late_count_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: kernels skip at once, and the run goes back some updates later, at the end of an epoch at last."""
    monkeypatch.setattr("iwin.train.callbacks.nonfinite.lag", lambda verdict: 2)
    late = {"optimizer": {"options": {"fused": True}}}
    whole, (first, second) = make_and_train(tmp_path / "whole", THREE, (4, 8), **late)
    assert [seen[1] for seen in first.seen] == list(range(1, 10)), "update 7 is judged after update 9"
    assert [seen[:2] for seen in second.seen] == [(1, 9), (1, 10)], "update 8 was sound, and so is its checkpoint"
    with pytest.raises(KeyError, match="killed"):
        make_and_train(tmp_path / "cut", THREE, (4, 8), die=8, **late)
    resumed, tasks = make_and_train(tmp_path / "cut", THREE, (4, 8), **late)
    assert same(everything(whole)["model"], everything(resumed)["model"])
    assert [len(task.seen) for task in tasks] == [0, 2]
    at_the_end, _ = make_and_train(tmp_path / "end", {(0, 8), (0, 9), (0, 10)}, (7,), **late)
    assert read_roll_backs(tmp_path / "end") == [{"attempt": 0, "updates": [8, 9, 10]}]
    assert at_the_end.global_step == UPDATES


def test_a_sound_update_ends_the_row(tmp_path: Path) -> None:
    trainer, tasks = make_and_train(tmp_path, {(0, 2), (0, 3), (0, 5), (0, 6), (0, 8)}, ())
    assert len(tasks) == 1
    assert trainer.callback_metrics["train/skipped"] == 5


def test_after_the_last_roll_back_the_report_names_updates_and_samples(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as raised:
        make_and_train(tmp_path, {(attempt, u) for attempt in (0, 1) for u in (5, 6, 7)}, (4,), max_roll_backs=1)
    message = str(raised.value)
    assert "updates 5, 6, 7" in message
    assert "max_roll_backs=1" in message
    rows = [row for row in read_nonfinite(tmp_path / "nonfinite.csv") if row[0] == 1]
    assert len(rows) == 3 * BATCH
    assert all(row[5] in message for row in rows[:BATCH])
    assert read_roll_backs(tmp_path) == [{"attempt": 0, "updates": [5, 6, 7]}]
