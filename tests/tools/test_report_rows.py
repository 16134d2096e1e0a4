"""Which runs become one row, what its numbers are, and which differences are marked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import COMMIT, OTHER_COMMIT, make_run, make_sweep

from iwin.tools.report.cells import Cell, read_sweep
from iwin.tools.report.find import find
from iwin.tools.report.marks import Mark, marks
from iwin.tools.report.rows import gather
from iwin.tools.report.sections import Section, sections
from iwin.tools.report.statistic import statistic
from iwin.tools.report.table import NOTHING, table

MINUS = "\N{MINUS SIGN}"
OURS_LESS_PAPER = f"ours {MINUS} paper"


def of(*folders: Path) -> list[Section]:
    return sections(*find(folders))


def texts(section: Section, heading: str) -> list[str]:
    found = table(section)
    return [row[found.headings.index(heading)].text for row in found.rows]


def position_cell(value: str, seed: int, **rest: object) -> dict[str, object]:
    overrides = {"position": value, "seed": str(seed)}
    return {"overrides": overrides, "folder": f"position={value},seed={seed}", **rest}


@given(st.lists(st.none() | st.floats(0, 100), max_size=6))
def test_mean_and_spread_are_those_of_the_definition(values: list[float | None]) -> None:
    there = [value for value in values if value is not None]
    found = statistic(values)
    if not there:
        assert found is None
        return
    assert found is not None
    assert found.n == len(there)
    mean = sum(there) / len(there)
    assert math.isclose(found.mean, mean, rel_tol=1e-9, abs_tol=1e-9)
    if len(there) == 1:
        assert found.spread is None
    else:
        spread = math.sqrt(sum((value - mean) ** 2 for value in there) / (len(there) - 1))
        assert found.spread is not None
        assert math.isclose(found.spread, spread, rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12))
def test_cells_are_gathered_by_all_but_the_seed_in_order(drawn: list[tuple[str, int]]) -> None:
    cells = [Cell((("mixer", value),), str(seed), "waiting", "", None) for value, seed in drawn]
    found = gather(cells, lambda cell: cell.settings)
    slow = [
        [cell for cell in cells if cell.settings == (("mixer", value),)] for value in dict.fromkeys(v for v, _ in drawn)
    ]
    assert [[id(cell) for cell in group] for group in found] == [[id(cell) for cell in group] for group in slow]


def test_seeds_are_one_row_with_mean_and_spread(tmp_path: Path) -> None:
    cells = []
    for seed, top1 in enumerate((0.96, 0.97, 0.98)):
        make_run(tmp_path / f"position=none,seed={seed}", seed=seed, top1=top1)
        cells.append(position_cell("none", seed))
    (section,) = of(make_sweep(tmp_path, "table7_position", cells))
    assert texts(section, "run") == ["position=none"]
    assert texts(section, "top-1, %") == ["97.00 ± 1.00 (3)"]
    assert texts(section, "best, %") == ["97.50 ± 1.00 (3)"]
    assert texts(section, "parameters") == ["1.640 M"]
    assert texts(section, "FLOPs") == ["12.35 M"]
    assert not marks(section)


def test_single_runs_that_differ_in_the_seed_alone_are_one_row(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, settings={"optimizer": {"lr": 0.1}})
    make_run(tmp_path / "b", seed=1, settings={"optimizer": {"lr": 0.1}, "paths": {"runs_dir": "elsewhere"}})
    make_run(tmp_path / "c", seed=0, settings={"optimizer": {"lr": 0.2}})
    make_run(tmp_path / "d", model="swin_micro")
    make_run(tmp_path / "e", data="flowers")
    digits, flowers = of(tmp_path)
    names = ["iwin_micro optimizer.lr=0.1", "iwin_micro optimizer.lr=0.2", "swin_micro"]
    assert texts(digits, "run") == names
    assert [len(row.cells) for row in digits.rows] == [2, 1, 1]
    assert (flowers.title, texts(flowers, "run")) == ("Runs on flowers", ["iwin_micro"])


def test_the_same_seed_again_is_no_new_evidence(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, top1=0.5)
    make_run(tmp_path / "b", seed=0, top1=0.9)
    make_run(tmp_path / "c", seed=1, top1=0.8)
    (section,) = of(tmp_path)
    assert texts(section, "top-1, %") == ["85.00 ± 7.07 (2)"]
    assert any("seed 0 is there more than once" in note and "a." in note for note in table(section).notes)


def test_different_data_is_never_one_mean(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, top1=0.5, sha256="aa")
    make_run(tmp_path / "b", seed=1, top1=0.9, sha256="aa")
    make_run(tmp_path / "c", seed=2, top1=0.1, sha256="bb")
    (section,) = of(tmp_path)
    assert [len(row.cells) for row in section.rows] == [2, 1]
    (mark,) = marks(section)
    assert mark.on(1, "data_hash")
    assert not mark.on(0, "data_hash")
    assert "data " in mark.note


def test_copied_data_is_the_same_data(tmp_path: Path) -> None:
    """The made folders say their own path as the data's root."""
    make_run(tmp_path / "here" / "a", seed=0)
    make_run(tmp_path / "there" / "b", seed=1)
    (section,) = of(tmp_path)
    assert len(section.rows) == 1


def test_seeds_from_two_commits_are_one_row_and_marked(tmp_path: Path) -> None:
    for seed, commit in enumerate((COMMIT, COMMIT, OTHER_COMMIT)):
        make_run(tmp_path / str(seed), seed=seed, commit=commit)
    (section,) = of(tmp_path)
    (mark,) = marks(section)
    assert mark.note == "commit 9f8e7d6, where others have commit 1a2b3c4: iwin_micro (seed 2)."
    assert mark.places == {(0, 2)}
    assert texts(section, "commit") == ["1a2b3c4, 9f8e7d6"]


def test_a_changed_working_tree_is_marked_and_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "a", dirty=True)
    make_run(tmp_path / "b", model="swin_micro")
    (section,) = of(tmp_path)
    assert texts(section, "commit") == ["1a2b3c4-dirty", "1a2b3c4"]
    (mark,) = marks(section)
    assert mark.on(0, "commit")
    assert not mark.on(1, "commit")


@pytest.mark.parametrize(
    ("other", "column", "said"),
    [
        ({"duration": "20ep"}, "top1", "a duration of 20ep, where others have a duration of 10ep"),
        ({"updates": 200}, "top1", "200 updates, where others have 100 updates"),
        ({"gpus": ("NVIDIA H100",) * 2}, "images_per_s", "the machine's 2 x NVIDIA H100"),
    ],
)
def test_what_nobody_meant_to_differ_is_marked(tmp_path: Path, other: dict, column: str, said: str) -> None:
    make_run(tmp_path / "a", model="iwin_a")
    make_run(tmp_path / "b", model="iwin_b")
    make_run(tmp_path / "c", model="iwin_c", **other)
    (section,) = of(tmp_path)
    (mark,) = marks(section)
    assert said in mark.note
    assert "iwin_c" in mark.note
    assert [mark.on(row, column) for row in range(3)] == [False, False, True]


def test_what_the_sweep_sets_is_no_mark(tmp_path: Path) -> None:
    make_run(tmp_path / "short", duration="5ep")
    make_run(tmp_path / "long", duration="10ep", updates=200)
    cells = [{"overrides": {"duration": f"{n}ep"}, "folder": name} for n, name in ((5, "short"), (10, "long"))]
    (section,) = of(make_sweep(tmp_path, "lengths", cells))
    assert not marks(section)


def test_seeds_with_other_parameters_are_marked(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, parameters=1_700_000)
    (section,) = of(tmp_path)
    (mark,) = marks(section)
    assert mark.on(0, "parameters")
    assert "1,700,000 parameters" in mark.note


def test_cells_that_did_not_finish_stand_in_the_table(tmp_path: Path) -> None:
    reason = "the loss was not finite for three updates in a row, and two roll-backs did not help it either"
    make_run(tmp_path / "position=none,seed=0", seed=0)
    make_run(tmp_path / "position=none,seed=1", seed=1, top1=None)
    make_run(tmp_path / "position=relative,seed=0", top1=None)
    cells = [
        position_cell("none", 0),
        position_cell("none", 1, state="failed", reason=reason),
        position_cell("relative", 0, state="running"),
        position_cell("absolute", 0, state="failed", reason="out of memory", folder=None),
        position_cell("rotary", 0, state="waiting", folder=None),
    ]
    (section,) = of(make_sweep(tmp_path, "table7_position", cells))
    none, relative, absolute, rotary = texts(section, "state")
    assert none.startswith("1 of 2 finished; seed 1 failed: the loss was not finite")
    assert relative == "running, in epoch 10 of 10"
    assert absolute == "failed: out of memory"
    assert rotary == "waiting"
    assert f"position=none, seed 1: failed: {reason}." in table(section).notes
    assert texts(section, "top-1, %") == ["90.00", NOTHING, NOTHING, NOTHING]


def test_a_failed_cell_gives_no_numbers_whatever_it_left(tmp_path: Path) -> None:
    make_run(tmp_path / "position=none,seed=0")
    make_sweep(tmp_path, "table7_position", [position_cell("none", 0, state="failed", reason="exit code 1")])
    assert read_sweep(tmp_path).cells[0].result is None


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "a", top1=None, duration="50ep")
    make_run(tmp_path / "b", top1=None, duration="2000st", model="swin_micro")
    make_run(tmp_path / "c", top1=None, log="epoch,step,train/loss\n", model="swin_t")
    (section,) = of(tmp_path)
    assert texts(section, "state") == [
        "unfinished, in epoch 10 of 50",
        "unfinished, at update 100 of 2000",
        "unfinished, nothing logged",
    ]


def test_an_older_run_has_dashes(tmp_path: Path) -> None:
    keys = ("parameters", "flops", "images_per_s", "peak_memory_bytes", "peak_memory_of")
    make_run(tmp_path / "a", **dict.fromkeys(keys))
    (section,) = of(tmp_path)
    for heading in ("parameters", "FLOPs", "images/s", "peak memory"):
        assert texts(section, heading) == [NOTHING]


def paper_of(tmp_path: Path, sweep: str, key: str, value: str, **run: object) -> Section:
    make_run(tmp_path / "cell", **run)  # type: ignore[arg-type]
    (section,) = of(make_sweep(tmp_path, sweep, [{"overrides": {key: value}, "folder": "cell"}]))
    return section


def test_no_difference_is_taken_between_other_models_and_data(tmp_path: Path) -> None:
    section = paper_of(tmp_path, "table7_position", "position", "relative")
    found = table(section)
    assert texts(section, "paper, % (Iwin-T, ImageNet-1K)") == ["82.4"]
    assert not any("ours" in heading for heading in found.headings)
    assert any("Ours is iwin_micro on digits" in note for note in found.notes)


@pytest.mark.parametrize(
    ("model", "paper", "difference"), [("iwin_t", "82.4", f"{MINUS}0.40"), ("iwin_s", "83.3", f"{MINUS}1.30")]
)
def test_the_difference_is_ours_less_the_papers(tmp_path: Path, model: str, paper: str, difference: str) -> None:
    run = {"model": model, "data": "in1k", "image_size": 224, "duration": "300ep", "top1": 0.82}
    section = paper_of(tmp_path, "table7_position", "position", "relative", **run)
    assert texts(section, "paper, %") == [paper]
    assert texts(section, OURS_LESS_PAPER) == [difference]
    assert not marks(section)


def test_a_shorter_training_than_the_papers_is_marked(tmp_path: Path) -> None:
    run = {"model": "iwin_t", "data": "in1k", "image_size": 224, "duration": "30ep", "top1": 0.7}
    (mark,) = marks(paper_of(tmp_path, "table7_downsample", "downsample", "conv", **run))
    assert isinstance(mark, Mark)
    assert mark.on(0, "difference")
    assert "30ep" in mark.note


def test_a_recipe_has_the_papers_number_of_its_own_configuration(tmp_path: Path) -> None:
    paper = {"top1": 84.9, "source": "Iwin, Table I"}
    make_run(tmp_path / "in1k", model="iwin_b", data="in1k", image_size=384, top1=0.85, paper=paper)
    make_run(tmp_path / "digits", model="iwin_b", image_size=384, top1=0.99, paper=paper)
    digits, in1k = of(tmp_path)
    assert texts(in1k, OURS_LESS_PAPER) == ["+0.10"]
    assert texts(digits, "paper, %") == ["84.9"]
    assert digits.rows[0].difference is None


def test_folders_that_the_sweep_does_not_name_are_said_and_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "position=none,seed=0")
    make_run(tmp_path / "stray")
    (section,) = of(make_sweep(tmp_path, "table7_position", [position_cell("none", 0)]))
    assert len(section.rows) == 1
    assert any("does not name them: stray" in note for note in section.notes)
