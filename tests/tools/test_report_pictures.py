"""The pictures of a report: what is drawn, that names stand apart, and that nothing is drawn of nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import make_run, make_sweep
from matplotlib.text import Annotation
from PIL import Image

from iwin.tools.report.curves import Line, bundles, logs, mean_line, running_mean
from iwin.tools.report.find import find
from iwin.tools.report.labels import Named, write_names
from iwin.tools.report.pictures import pictures
from iwin.tools.report.sections import sections
from iwin.tools.report.style import COLOURS, look, panel

NAMES = ["interleaved", "window", "dwconv", "none", "relative", "rotary"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=6))
def test_names_cover_neither_each_other_nor_points_nor_the_frame(drawn: list[tuple[int, int, int]]) -> None:
    figure, axes = panel("", "x", "y")
    axes.set_xlim(-5, 25)
    axes.set_ylim(-5, 25)
    points = [Named(x, y, NAMES[i], "k", y_spread=spread) for i, (x, y, spread) in enumerate(drawn)]
    if not write_names(figure, axes, points):
        assert not axes.texts
        return
    notes = [note for note in axes.texts if note.get_text()]
    assert [note.get_text() for note in notes] == [point.name for point in points]
    boxes = [note.get_window_extent() for note in notes if isinstance(note, Annotation)]
    frame = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:index])
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        for point in points:
            x, y = axes.transData.transform((point.x, point.y))
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def test_rows_look_different() -> None:
    looks = [look(index) for index in range(4 * len(COLOURS))]
    assert len({(one.colour, one.line) for one in looks}) == len(looks)
    assert len({one.colour for one in looks[:8]}) == 8
    assert len({(one.colour, one.marker) for one in looks[:24]}) == 24  # points have no lines


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_a_running_mean_is_the_mean_of_what_is_around(values: list[float], half: int) -> None:
    found = running_mean(np.array(values), 2 * half + 1)
    slow = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    assert np.allclose(found, slow)
    assert len(found) == len(values)


def test_the_mean_of_lines_is_at_the_updates_that_all_have() -> None:
    first = Line(np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    second = Line(np.array([20.0, 30.0, 40.0]), np.array([2.0, 3.0, 4.0]), np.array([4.0, 6.0, 8.0]))
    mean = mean_line([first, second])
    assert mean is not None
    assert (mean.updates.tolist(), mean.epochs.tolist(), mean.values.tolist()) == ([20, 30], [2, 3], [3, 4.5])
    other = Line(np.array([5.0]), np.array([0.5]), np.array([1.0]))
    assert mean_line([first, other]) is None


def test_curves_are_over_epochs_and_failed_seeds_are_not_in_the_mean(tmp_path: Path) -> None:
    cells = []
    for seed, state in enumerate(("finished", "finished", "failed")):
        make_run(tmp_path / str(seed), seed=seed, top1=0.9 if state == "finished" else None)
        cells.append({"overrides": {"position": "none", "seed": str(seed)}, "folder": str(seed), "state": state})
    (section,) = sections(*find([make_sweep(tmp_path, "table7_position", cells)]))
    (bundle,) = bundles(section, logs(section), "val/top1")
    assert len(bundle.lines) == 3
    assert len(bundle.counted) == 2
    assert bundle.lines[0].epochs.tolist() == list(range(1, 11))


def test_a_validation_before_any_update_is_at_epoch_zero(tmp_path: Path) -> None:
    make_run(tmp_path / "a", log="epoch,step,val/top1\n0,0,0.1\n0,10,0.5\n1,20,0.8\n")
    (section,) = sections(*find([tmp_path]))
    (bundle,) = bundles(section, logs(section), "val/top1")
    assert bundle.lines[0].epochs.tolist() == [0, 1, 2]


def test_every_picture_is_a_readable_png(tmp_path: Path) -> None:
    for index, mixer in enumerate(("dwconv", "window", "interleaved")):
        make_run(tmp_path / mixer, top1=0.9 + 0.01 * index, flops=1e7 * 9**index, images_per_s=900 - index)
    cells = [{"overrides": {"mixer": mixer}, "folder": mixer} for mixer in ("dwconv", "window", "interleaved")]
    (section,) = sections(*find([make_sweep(tmp_path, "table7_attention", cells)]))
    found = pictures(section)
    assert [picture.name for picture in found] == [
        "accuracy-flops",
        "accuracy-flops-paper",
        "accuracy-throughput",
        "accuracy-throughput-paper",
        "curve-accuracy",
        "curve-loss",
    ]
    for picture in found:
        pixels = np.asarray(Image.open(io.BytesIO(picture.content)).convert("L"))
        assert pixels.shape[1] > 900
        assert (pixels < 250).mean() > 0.005


def test_where_there_is_nothing_to_show_a_sentence_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a", top1=None, log="epoch,step\n")
    (section,) = sections(*find([tmp_path]))
    found = pictures(section)
    assert [picture.content for picture in found] == [b""] * 4
    assert all(picture.caption.startswith("No ") for picture in found)


def test_the_papers_points_join_ours_only_where_they_are_of_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iwin.tools.report.pictures.png", lambda figure: b"drawn")
    for folder, run in (
        ("same", {"model": "iwin_t", "data": "in1k", "image_size": 224, "duration": "300ep", "top1": 0.82}),
        ("other", {}),
    ):
        make_run(tmp_path / folder / "cell", **run)  # type: ignore[arg-type]
        make_sweep(tmp_path / folder, "table7_depths", [{"overrides": {"blocks": "2-2-6-2"}, "folder": "cell"}])
    names = {}
    for folder in ("same", "other"):
        (section,) = sections(*find([tmp_path / folder]))
        names[folder] = {picture.name for picture in pictures(section)}
    assert "accuracy-flops-paper" in names["other"] - names["same"]
