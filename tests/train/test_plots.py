"""The pictures of a run say what the numbers say, and are drawn for the smallest and the largest run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from iwin.errors import DataError
from iwin.train import plots
from iwin.train.metrics_csv import MetricsCSV

FIVE_CLASSES = ["tench", "cock", "jay", "kite", "a name far too long for the label of a picture"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, so that what they say can be asked."""
    figures: list[Figure] = []
    save = plots._save

    def keep(figure: Figure, out: Path) -> None:
        figures.append(figure)
        save(figure, out)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def texts(figure: Figure) -> list[str]:
    """Everything that is written in a figure, titles and legends included."""
    found = [text.get_text() for text in figure.texts]
    found += [figure.get_suptitle()]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts] + [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        if legend := axes.get_legend():
            found += [text.get_text() for text in legend.get_texts()]
    return [text for text in found if text]


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    found = next(line for line in axes.lines if line.get_label() == label)
    return [float(v) for v in found.get_xdata()], [float(v) for v in found.get_ydata()]


def a_run(folder: Path, epochs: int, updates: int, top1: list[float]) -> Path:
    logger = MetricsCSV(folder)
    for step in range(epochs * updates):
        epoch = step // updates
        logger.log_metrics({"train/loss": 4.0 / (step + 1) ** 1.5, "lr": 1e-3, "epoch": epoch}, step)
        if (step + 1) % updates == 0:
            metrics = {"val/loss": 0.5, "val/top1": top1[epoch], "val/top5": (1 + top1[epoch]) / 2}
            logger.log_metrics(metrics | {"epoch": epoch}, step)
    return logger.path


def test_curves_show_epochs_percent_the_best_and_the_last(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.curves(a_run(tmp_path, 4, 5, [0.2, 0.5, 0.975, 0.9]), tmp_path / "deep" / "curves.png", "a run")
    loss, accuracy, rate = drawn[0].axes
    assert drawn[0].get_suptitle() == "a run"
    assert line(accuracy, "validation top-1") == ([1.0, 2.0, 3.0, 4.0], [20.0, 50.0, 97.5, 90.0])
    assert line(loss, "train")[0] == pytest.approx([(step + 1) / 5 for step in range(20)])
    assert line(rate, "learning rate")[1] == [1e-3] * 20
    assert {"best top-1: 97.50 % (epoch 3)", "last 90.00 %", "best top-5: 98.75 % (epoch 3)"} <= set(texts(drawn[0]))
    assert [axes.get_xlabel() for axes in drawn[0].axes] == ["epochs"] * 3
    assert loss.get_yscale() == "log"  # from 4.0 down to 0.04
    assert Image.open(tmp_path / "deep" / "curves.png").width > 1500


def test_curves_of_one_epoch_end_at_one(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.curves(a_run(tmp_path, 1, 3, [0.2]), tmp_path / "curves.png", "one epoch")
    assert line(drawn[0].axes[1], "validation top-1") == ([1.0], [20.0])
    assert drawn[0].axes[1].get_ylim()[0] >= 0.0


def test_curves_before_the_first_epoch_ends_count_updates(tmp_path: Path, drawn: list[Figure]) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": float("nan"), "epoch": 0}, 0)
    logger.log_metrics({"train/loss": 2.0, "epoch": 0}, 1)
    plots.curves(logger.path, tmp_path / "curves.png", "just begun")
    assert line(drawn[0].axes[0], "train") == ([2.0], [2.0])
    assert {"updates", "no validation yet", "no learning rate was logged"} <= set(texts(drawn[0]))


def test_an_empty_log_is_an_error_for_people(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.truncate_after(0)
    with pytest.raises(DataError, match="has no rows yet"):
        plots.curves(logger.path, tmp_path / "curves.png", "nothing")


def test_the_smoothed_curve_keeps_a_line_and_its_ends() -> None:
    straight = np.arange(50.0)
    assert plots._smooth(straight, 5)[2:-2] == pytest.approx(straight[2:-2])
    assert plots._smooth(np.ones(50), 5) == pytest.approx(np.ones(50))


def test_confusion_has_rows_for_truth_and_writes_counts_but_no_zeros(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.diag([30, 31, 32, 0, 34])
    counts[1, 4] = 7
    plots.confusion(counts, FIVE_CLASSES, tmp_path / "confusion.png", "five")
    axes = drawn[0].axes[0]
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert written == {((0, 0), "30"), ((1, 1), "31"), ((2, 2), "32"), ((4, 4), "34"), ((4, 1), "7")}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "truth")
    assert axes.get_title() == "five\n127 of 134 right (94.78 %)"


def test_a_lone_error_is_as_visible_as_the_diagonal(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.diag([1000] * 5)
    counts[0, 1] = 1
    plots.confusion(counts, FIVE_CLASSES, tmp_path / "confusion.png", "five")
    errors = drawn[0].axes[0].images[0]
    red, green, blue, _ = errors.to_rgba(errors.get_array())[0, 1]
    assert min(red, green, blue) < 0.5


@pytest.mark.parametrize("size", [2, 20, 21, 300])
def test_confusion_of_any_size_is_drawn_and_written_up_to_twenty(
    tmp_path: Path, drawn: list[Figure], size: int
) -> None:
    counts = np.ones((size, size), int)
    plots.confusion(counts, [f"class {i}" for i in range(size)], tmp_path / "confusion.png", "many")
    assert len(drawn[0].axes[0].texts) == (size * size if size <= 20 else 0)


def test_confusion_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for 2 classes"):
        plots.confusion(np.zeros((2, 3), int), ["a", "b"], tmp_path / "confusion.png", "no")


def sheet(folder: Path, truth: list[int], predicted: list[int], confidence: list[float], limit: int = 40) -> None:
    count = len(truth)
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 6, 3), np.uint8)
    plots.contact_sheet(
        images, np.array(truth), np.array(predicted), np.array(confidence, np.float32),
        [f"key{i}" for i in range(count)], FIVE_CLASSES, folder / "sheet.png", "a run", limit,
    )  # fmt: skip


def test_the_sheet_shows_mistakes_alone_the_most_confident_first(tmp_path: Path, drawn: list[Figure]) -> None:
    sheet(tmp_path, truth=[0, 1, 2, 3], predicted=[0, 2, 1, 4], confidence=[0.99, 0.5, 0.931, 0.7])
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [int(np.asarray(axes.images[0].get_array())[0, 0, 0]) for axes in shown] == [2, 3, 1]
    assert [axes.get_title() for axes in shown] == [
        "jay -> cock (93 %)",
        "kite\n-> a name far too… (70 %)",
        "cock -> jay (50 %)",
    ]
    assert [axes.texts[0].get_text() for axes in shown] == ["key2", "key3", "key1"]
    assert all(axes.images[0].get_interpolation() == "nearest" for axes in shown)
    assert drawn[0].get_suptitle() == "a run\nmisclassified pictures, the most confident mistake first: 3"


def test_the_sheet_says_how_many_it_leaves_out(tmp_path: Path, drawn: list[Figure]) -> None:
    sheet(tmp_path, truth=[0] * 30, predicted=[1] * 30, confidence=[0.5] * 30, limit=9)
    assert sum(bool(axes.images) for axes in drawn[0].axes) == 9
    assert drawn[0].get_suptitle() == "a run\nmisclassified pictures, the most confident mistake first: 9 of 30"


def test_a_sheet_without_mistakes_says_so(tmp_path: Path, drawn: list[Figure]) -> None:
    sheet(tmp_path, truth=[0, 1], predicted=[0, 1], confidence=[0.9, 0.9])
    assert "no picture was misclassified" in texts(drawn[0])
    assert (tmp_path / "sheet.png").is_file()


def test_long_keys_keep_the_end_that_tells_samples_apart() -> None:
    assert plots._short_key("n01440764/ILSVRC2012_val_00000293") == "…4/ILSVRC2012_val_00000293"
    assert plots._short_key("digits_00012") == "digits_00012"
