"""Nine photographs, what is written of them, and what is left where writing was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planned_set import tree, write
from tiny_images import encoded

from iwin.data.shard_plan import PlannedShard, SplitPlan
from iwin.data.shrink import Shrink
from iwin.data.writer import Sample
from iwin.errors import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine JPEGs of 24 x 20 pixels in three classes: two shards for training and one for validation."""
    root = tmp_path_factory.mktemp("source")
    for number in range(9):
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (folder / f"p{number}.jpg").write_bytes(encoded(Image.fromarray(pixels), "JPEG"))
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that was not ended."""
    root = tmp_path_factory.mktemp("whole")
    write(source, root, "--jobs", 1)
    return tree(root)


@pytest.fixture(scope="module")
def stopped(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a run that could not read validation: both training shards, finished, and the plan."""
    root = tmp_path_factory.mktemp("stopped")

    def fails(plan: SplitPlan, shard: PlannedShard, shrink: Shrink | None) -> Iterator[Sample]:
        if shard.split == "val":
            raise DataError("restore it")
        yield from samples(plan, shard, shrink)

    samples = SplitPlan.samples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitPlan, "samples", fails)
        with pytest.raises(DataError, match="restore it"):
            write(source, root, "--jobs", 1)
    return root


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of what is left of the run that was stopped."""
    return shutil.copytree(stopped, tmp_path / "begun")
