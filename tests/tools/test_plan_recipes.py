"""Every recipe can be planned, and has the parameters and FLOPs of the papers' tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iwin.conf import options
from iwin.tools.cli import main

TABLES = json.loads((Path(__file__).parents[1] / "reference" / "paper_tables.json").read_text())
ROWS = {(row["model"], row["image_size"]): row for row in TABLES["table1_imagenet1k"]}
CHEAP = ("iwin_t", "swin_micro_48")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one in CHEAP else pytest.mark.slow) for one in options("experiment")]
)
def test_a_recipe_is_planned(name: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    code = main(
        ["plan", f"experiment={name}", f"paths.runs_dir={tmp_path}", f"data.root={tmp_path / 'absent'}", "--json"]
    )
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 2
    assert sum("is not a folder" in problem for problem in told["problems"]) == 1
    tuned = [problem for problem in told["problems"] if problem.startswith("init.path is needed")]
    assert len(told["problems"]) == 1 + len(tuned)
    assert told["memory"]["peak"] > told["memory"]["held"] > 0
    model, size = told["model"], told["model"]["stages"][0]["size"][0] * 4
    row = ROWS.get((model["name"].removesuffix("_paper"), size))
    if row is not None:
        wider = (told["data"]["classes"] - 1000) * (model["stages"][-1]["dim"] + 1)
        assert model["parameters"] == row["params_exact"] + wider
        assert model["flops"] / 1e9 == pytest.approx(row["gflops_released"] + wider / 1e9, rel=3e-3)
    if told["data"]["source"] == "known":
        assert told["batch"]["updates"] == told["batch"]["epochs"] * (
            told["data"]["train"] // told["batch"]["global_batch"]
        )
        assert told["schedule"]["updates"][-1] == told["batch"]["updates"] - 1
        assert max(told["schedule"]["rates"]) == pytest.approx(told["rate"])
    else:
        assert told["batch"] is None
