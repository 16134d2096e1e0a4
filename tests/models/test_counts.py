"""Every size and ablation has the printed parameters and FLOPs (tests/reference/paper_tables.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import iwin
from iwin.models.count import count

TABLES = json.loads((Path(__file__).parents[1] / "reference" / "paper_tables.json").read_text())
TABLE_1 = TABLES["table1_imagenet1k"]
TABLE_7 = TABLES["table7_ablations_iwin_t_224"]


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: f"{row['model']}-{row['image_size']}-{row['pretrain']}")
def test_table_1(row: dict) -> None:
    side = row["image_size"]
    counts = count(lambda: iwin.create_model(row["model"], img_size=side), (side, side))
    assert counts.parameters == row["params_exact"]
    assert counts.flops / 1e9 == pytest.approx(row["gflops_released"], rel=0.003)


@pytest.mark.parametrize("side", [224, 384, 512, 1024])
def test_auto_takes_the_papers_window(side: int) -> None:
    (window,) = {row["window"] for row in TABLE_1 if row["image_size"] == side}
    with __import__("torch").device("meta"):
        assert iwin.create_model("iwin_t", img_size=side).plan[0].window == window


# What is overridden for each row, and the FLOPs that a row has where its printed number is another definition's
# (printed_counts_notes): the depthwise downsampling's counts a depthwise convolution as a dense one, the average
# pooling's convolves before it pools, which is the same function at a higher cost.
ROWS: list[tuple[dict, dict[str, Any], float]] = []
MIXERS = {
    "dwconv only": "dwconv",
    "w-msa only": "window_attention",
    "iw-msa only": "interleaved_attention",
    "dwconv + w-msa": "window",
    "dwconv + iw-msa": "interleaved",
}
for row in TABLE_7["attention_and_convolution"]:
    ROWS.append((row, {"mixer": MIXERS[row["setting"]]}, row["gflops"]))
DOWNSAMPLES = {
    "dwconv": ("dwconv", 4.378),
    "avg pooling": ("avgpool", 4.38),
    "patch merging": ("merging", 4.507),
    "std conv": ("conv", 4.72),
}
for row in TABLE_7["downsampling"]:
    name, gflops = DOWNSAMPLES[row["setting"]]
    ROWS.append((row, {"downsample": name}, gflops))
for row in TABLE_7["kernel_size_per_stage"]:
    ROWS.append((row, {"kernel_sizes": row["setting"]}, row["gflops"]))
KERNELS = {(3, 3, 3, 3): [7, 5, 3, None], (4, 3, 2, 2): [3, 3, 3, None]}
for row in TABLE_7["blocks_per_stage"]:
    kernels = KERNELS.get(tuple(row["setting"]), 3)
    ROWS.append((row, {"depths": row["setting"], "kernel_sizes": kernels}, row["gflops"]))
for row in TABLE_7["position_embedding"]:
    ROWS.append((row, {"position": row["setting"].split(" ")[0]}, row["gflops"]))


@pytest.mark.parametrize(("row", "changes", "gflops"), ROWS, ids=lambda value: str(value)[:60])
def test_table_7(row: dict, changes: dict[str, Any], gflops: float) -> None:
    name = "iwin_s" if "iwin_s" in str(row["setting"]) else "iwin_t"
    counts = count(lambda: iwin.create_model(name, **changes), (224, 224))
    printed = str(row["params_m"])
    digits = len(printed.partition(".")[2])
    # 27.13, 27.14, 21.6: rounded to as many digits as are printed.
    assert round(counts.parameters / 1e6, digits) == pytest.approx(row["params_m"], abs=1e-9)
    assert counts.flops / 1e9 == pytest.approx(gflops, abs=0.01)


def test_the_notes_exact_numbers() -> None:
    """The numbers that the notes give beyond the printed digits."""

    def parameters(**changes: Any) -> float:
        name = changes.pop("name", "iwin_t")
        return count(lambda: iwin.create_model(name, **changes), (224, 224)).parameters / 1e6

    assert parameters(mixer="dwconv") == pytest.approx(21.598, abs=5e-4)
    assert parameters(depths=[3, 3, 3, 3], kernel_sizes=[7, 5, 3, None]) == pytest.approx(32.560, abs=5e-4)
    assert parameters(depths=[4, 3, 2, 2], kernel_sizes=[3, 3, 3, None]) == pytest.approx(23.786, abs=5e-4)
    assert parameters(downsample="merging") == pytest.approx(28.294, abs=5e-4)
    assert parameters(downsample="avgpool") == pytest.approx(27.130, abs=5e-4)
    assert parameters(downsample="dwconv") == pytest.approx(27.137, abs=5e-4)
    assert parameters(name="iwin_s", position="relative") == pytest.approx(51.598, abs=5e-4)
    assert parameters(name="iwin_s_paper", position="relative") == pytest.approx(51.614, abs=5e-4)
