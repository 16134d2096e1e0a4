from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny_images import PACKAGE

from iwin.data.decode import decode
from iwin.data.manifest import read_manifest
from iwin.data.shards import ShardDataset, ShardFolder

ROOT = PACKAGE / "data" / "digits"
SCRIPT = PACKAGE.parents[1] / "scripts" / "make_digits.py"


def test_the_script_makes_the_packaged_files_byte_for_byte(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("make_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in ROOT.iterdir()}


def test_pixels_and_labels_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    seen = []
    for split in ("train", "val"):
        data = ShardDataset(ShardFolder(ROOT), f"{split}-*.tar", None, None)
        for i in range(len(data)):
            number = int(data.key(i).rpartition("-")[2])
            seen.append(number)
            assert data.labels[i] == digits.target[number]
            pixels = np.asarray(decode(data.read(i), data.key(i)))[:, :, 0]
            assert np.array_equal(pixels, np.rint(digits.images[number] * 255 / 16).astype(np.uint8))
    assert sorted(seen) == list(range(1797))


def test_classes_are_spread_evenly_over_splits_and_shards() -> None:
    train, val = (ShardDataset(ShardFolder(ROOT), f"{split}-*.tar", None, None) for split in ("train", "val"))
    assert [len(train.shards), len(val.shards), len(train), len(val)] == [4, 2, 1438, 359]
    assert np.ptp(np.bincount(train.labels) / 4.0 - np.bincount(val.labels)) < 1.5
    for shard in train.shards:
        assert np.bincount(shard.labels, minlength=10).min() > 20


def test_the_manifest_gives_licence_citation_and_command() -> None:
    manifest = read_manifest(ROOT)
    assert manifest is not None
    about = manifest["about"]
    assert about["licence"].startswith("CC BY 4.0")
    assert "Alpaydin" in about["citation"]
    assert about["command"] == "python scripts/make_digits.py"
