"""The zoo's table stands in the README as the command prints it, with the papers' numbers."""

from __future__ import annotations

import json
from pathlib import Path

from iwin.tools.paper import TOP1
from iwin.tools.zoo import table

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_table_that_the_command_prints() -> None:
    assert table() in (ROOT / "README.md").read_text()


def test_the_papers_accuracies_are_table_1(reference: Path) -> None:
    rows = json.loads((reference / "paper_tables.json").read_text())["table1_imagenet1k"]
    printed = {(row["model"], row["image_size"], row["pretrain"] == "in22k"): row["top1"] for row in rows}
    assert printed == TOP1
