"""Small data sets: the digits as a configured module, grey squares in class folders, shards behind a web server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import Loopback, serve_shards
from PIL import Image
from tiny_images import data_keys, encoded, square

from iwin.data.cache import ShardCache
from iwin.data.fetch import Patience
from iwin.data.module import ImageDataModule
from iwin.data.writer import DataSetWriter, Sample

AT_ONCE = Patience(timeout_s=10, attempts=3, backoff_s=0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def digits() -> Callable[..., ImageDataModule]:
    """Make the data module of the digits: digits("deit", batch_size=4)."""

    def make(recipe: str = "simple", **changes: Any) -> ImageDataModule:
        small = {"image_size": 8, "batch_size": 16, "num_workers": 0}
        return ImageDataModule(**data_keys("digits", recipe) | small | changes)

    return make


@pytest.fixture
def noise(tmp_path: Path) -> Callable[..., ImageDataModule]:
    """Make the data module of 57 training and 13 validation images of 8 x 8 pixels and 3 classes, as shards."""
    root = tmp_path / "noise"
    drawn = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    samples = [Sample(f"n{i:02d}", encoded(Image.fromarray(one)), "png", i % 3) for i, one in enumerate(drawn)]
    with DataSetWriter(root, classes=["a", "b", "c"], about={}) as writer:
        writer.write_split("train", samples[:57], samples_per_shard=20)
        writer.write_split("val", samples[57:], samples_per_shard=10)

    def make(recipe: str = "simple", **changes: Any) -> ImageDataModule:
        small = {"root": str(root), "num_classes": 3, "image_size": 8, "batch_size": 5, "num_workers": 0}
        return ImageDataModule(**data_keys("digits", recipe) | small | changes)

    return make


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A web server on this machine, without a file."""
    with Loopback().running() as running:
        yield running


@pytest.fixture
def names(server: Loopback, tmp_path: Path) -> list[str]:
    """The names of 8 shards of one size that the server has below /in1k."""
    return serve_shards(server, tmp_path / "served", 8)


@pytest.fixture
def opened(server: Loopback, names: list[str], tmp_path: Path) -> Callable[..., ShardCache]:
    """Make a cache that may hold so many shards, as another process would."""

    def make(shards: float = 4) -> ShardCache:
        size = len(server.files[f"/in1k/{names[0]}"])
        return ShardCache(f"{server.url}/in1k/", tmp_path / "node", limit_bytes=int(shards * size), patience=AT_ONCE)

    return make


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """<root>/{ant,bee,cat}/*.png: 4, 5 and 6 images, each of a grey of its own."""
    root = tmp_path / "folders"
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for number in range(4 + label):
            (root / name / f"{name}.{number}.png").write_bytes(square(40 * label + number))
    return root
