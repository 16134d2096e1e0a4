"""What the README shows works: its mixer, its commands' keys, its files."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

import iwin

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = "".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))


def test_the_mixer_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    source = re.search(r"```python\n# src/iwin/models/mixers/pool\.py\n(.*?)```", DOCS, re.DOTALL)
    config = re.search(r"```yaml\n# conf/mixer/pool\.yaml[^\n]*\n(.*?)```", DOCS, re.DOTALL)
    assert source is not None
    assert config is not None
    module = types.ModuleType("iwin.models.mixers.pool")
    exec(source[1], module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = iwin.create_model("iwin_micro", num_classes=10, mixer=yaml.safe_load(config[1]))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert type(model.layers[0].blocks[0].local).__name__ == "Pool"


def test_every_file_that_is_linked_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).is_file(), link
    rooms = re.search(r"## The rooms\n\n```\n(.*?)```", DOCS, re.DOTALL)
    assert rooms is not None
    for name in re.findall(r"\b(\w+\.py)\b", rooms[1]):
        assert list(ROOT.glob(name)) or list(ROOT.glob(f"src/iwin/**/{name}")) or list(ROOT.glob(f"tests/{name}")), name
