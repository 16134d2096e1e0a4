"""Damaged images: replaced in training, the same way at any number of workers; an error in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_module import fit
from tiny_images import data_keys, encoded

from iwin.batch import Batch, Position
from iwin.data.module import ImageDataModule, hand_over
from iwin.data.sampler import Ticket
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import DataError

BAD = (3, 11)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 images for training, two of them damaged behind their headers, and 4 for validation, one damaged."""
    drawn = np.random.default_rng(1).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(one)) for one in drawn]
    for index in (*BAD, 22):
        files[index] = files[index][:60]
    samples = [Sample(f"n{i:02d}", file, "png", i % 2) for i, file in enumerate(files)]
    with DataSetWriter(tmp_path / "set", classes=["a", "b"], about={}) as writer:
        writer.write_split("train", samples[:20], samples_per_shard=8)
        writer.write_split("val", samples[20:], samples_per_shard=8)
    return tmp_path / "set"


def module(root: Path, **changes: Any) -> ImageDataModule:
    small = {"root": str(root), "num_classes": 2, "image_size": 8, "batch_size": 5, "num_workers": 0}
    return ImageDataModule(**data_keys("digits", "simple") | small | changes)


def ticket(epoch: int, step: int, *indices: int, repetition: int = 0) -> Ticket:
    return Ticket(Position(0, epoch, step, 0), np.array(indices), np.full(len(indices), repetition))


def batches(data: ImageDataModule, workers: int, repetition: int = 0) -> list[Batch]:
    """An epoch of the training set in its own order."""
    dataset = data.train_dataset
    tickets: Any = [ticket(1, step, *range(4 * step, 4 * step + 4), repetition=repetition) for step in range(5)]
    collate: Any = hand_over
    return list(torch.utils.data.DataLoader(dataset, batch_sampler=tickets, collate_fn=collate, num_workers=workers))


def test_others_stand_in_for_damaged_images_and_the_batch_tells(root: Path) -> None:
    made = batches(module(root), 0)
    told = [sample.key for batch in made for sample in batch.bad]
    assert [key.rpartition(":")[2] for key in told][:1] == ["n03"]
    assert {key.rpartition(":")[2] for key in told} == {"n03", "n11"}
    assert all("cannot be decoded" in sample.reason for batch in made for sample in batch.bad)
    dataset = module(root).train_dataset
    for step, batch in enumerate(made):
        indices = batch.indices.tolist()
        asked = list(range(4 * step, 4 * step + 4))
        assert not set(indices) & set(BAD)
        assert [here for here, there in zip(indices, asked, strict=True) if there not in BAD] == [
            there for there in asked if there not in BAD
        ]
        assert batch.targets.tolist() == [dataset.label(index) for index in indices]


def test_the_same_stand_in_at_any_number_of_workers_and_another_in_another_run(root: Path) -> None:
    one, other = batches(module(root), 0), batches(module(root), 2)
    for here, there in zip(one, other, strict=True):
        assert torch.equal(here.images, there.images)
        assert torch.equal(here.indices, there.indices)
        assert here.bad == there.bad
    runs = {tuple(torch.cat([batch.indices for batch in batches(module(root, seed=s), 0)]).tolist()) for s in range(5)}
    assert len(runs) > 1


def test_each_repetition_of_a_damaged_image_has_a_stand_in_of_its_own(root: Path) -> None:
    taken = {batches(module(root), 0, repetition)[0].indices[3].item() for repetition in range(6)}
    assert len(taken) > 1
    assert not taken & set(BAD)


def test_a_sound_image_is_not_changed_by_damaged_ones_beside_it(root: Path) -> None:
    data = module(root)
    alone = data.train_dataset.__getitems__(ticket(1, 0, 2))
    assert torch.equal(alone.images[0], batches(data, 0)[0].images[2])


def test_nothing_but_damaged_images_is_an_error(tmp_path: Path) -> None:
    with DataSetWriter(tmp_path / "set", classes=["a", "b"], about={}) as writer:
        writer.write_split("train", [Sample(f"n{i}", b"no image", "png", i) for i in (0, 1)], samples_per_shard=8)
    with pytest.raises(DataError, match="11 images drawn at random one after the other cannot be decoded"):
        module(tmp_path / "set").train_dataset.__getitems__(ticket(0, 0, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_in_evaluation_a_damaged_image_is_an_error_with_its_key(root: Path, workers: int) -> None:
    with pytest.raises(DataError, match=r"image val-00000.tar:n22 cannot be decoded"):
        fit(module(root, num_workers=workers), limit_val_batches=1.0)
