"""Table VII as the report has it is the paper's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from iwin.tools.paper import SWEPT, TABLE7, TOP1, ablation

CONF = Path(__file__).parents[2] / "conf"
# The paper's words for what the command line calls otherwise, in the order of the paper's rows.
PARTS = {
    "attention_and_convolution": (
        "table7_attention",
        ["dwconv", "window_attention", "interleaved_attention", "window", "interleaved"],
    ),
    "downsampling": ("table7_downsample", ["dwconv", "avgpool", "merging", "conv"]),
    "kernel_size_per_stage": ("table7_kernel", None),
    "blocks_per_stage": ("table7_depths", None),
    "position_embedding": ("table7_position", None),
}


@pytest.mark.parametrize("part", PARTS)
def test_table_vii_is_the_papers(part: str, reference: Path) -> None:
    sweep, settings = PARTS[part]
    rows = json.loads((reference / "paper_tables.json").read_text())["table7_ablations_iwin_t_224"][part]
    found = {}
    for index, row in enumerate(rows):
        setting, model = row["setting"], "iwin_t"
        if settings is not None:
            setting = settings[index]
        elif sweep == "table7_kernel":
            setting = json.dumps(setting, separators=(",", ":"))
        elif sweep == "table7_depths":
            setting = "-".join(map(str, setting))
        elif setting.endswith(" (iwin_s)"):
            setting, model = setting.removesuffix(" (iwin_s)"), "iwin_s"
        found[setting, model] = tuple(row[key] for key in ("params_m", "gflops", "throughput_v100", "top1"))
    ours = {
        (setting, row.model): (row.parameters_m, row.gflops, row.images_per_s, row.top1)
        for setting, of_setting in TABLE7[sweep].items()
        for row in of_setting
    }
    assert ours == found


def test_the_settings_are_those_that_the_sweeps_have() -> None:
    for sweep, key in SWEPT.items():
        params = OmegaConf.load(CONF / "sweep" / f"{sweep}.yaml").hydra.sweeper.params
        (values,) = [value for name, value in params.items() if name == key]
        assert re.findall(r"\[.*?\]|[^,]+", values) == list(TABLE7[sweep])


def test_the_row_without_a_change_is_that_of_table_1() -> None:
    for sweep, setting in (
        ("table7_attention", "interleaved"),
        ("table7_downsample", "conv"),
        ("table7_depths", "2-2-6-2"),
    ):
        assert TABLE7[sweep][setting][0].top1 == TOP1["iwin_t", 224, False]


def test_a_cell_finds_its_row_by_sweep_setting_and_model() -> None:
    assert SWEPT.keys() == TABLE7.keys()
    kernels = {"model.kernel_sizes": "[7, 5, 3, null]", "model": "iwin_micro"}
    assert ablation("table7_kernel", kernels, "iwin_micro") is TABLE7["table7_kernel"]["[7,5,3,null]"][0]
    small = ablation("table7_position", {"position": "none"}, "iwin_s")
    assert small is not None
    assert (small.model, small.top1) == ("iwin_s", 83.4)
    assert ablation("table7_position", {"position": "rotary"}, "iwin_t") is None
    assert ablation("seeds", {}, "iwin_t") is None
