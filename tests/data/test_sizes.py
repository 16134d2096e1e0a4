"""Progressive resizing: which epoch has which size, what cannot be, and that training sees it wherever it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_module import Probe, SaveAt, trainer
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from iwin.batch import Batch
from iwin.data.module import ImageDataModule
from iwin.data.sizes import Progressive, read_size
from iwin.errors import ConfigError

Make = Callable[..., ImageDataModule]
SIZES = {"0%": 4, "40%": [6, 8], "80%": 12}
OF_5_EPOCHS = [(4, 4), (4, 4), (6, 8), (6, 8), (12, 12)]


class Sizes(Probe):
    """Takes images of any size; keeps the epochs and sizes of those in training, and the sizes in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[tuple[int, tuple[int, int]]] = []
        self.evaluated: set[tuple[int, int]] = set()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        height, width = batch.images.shape[2:]
        self.trained.append((batch.position.epoch, (height, width)))
        pooled = adaptive_avg_pool2d(batch.images, 8)
        return cross_entropy(self.layer(pooled.flatten(1)), batch.targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated.add((batch.images.shape[2], batch.images.shape[3]))


def fit(data: ImageDataModule, *callbacks: Any, resume: Path | None = None, **options: Any) -> Sizes:
    probe = Sizes()
    trainer(*callbacks, **{"epochs": 5, "limit_train_batches": 2} | options).fit(
        probe, datamodule=data, ckpt_path=resume
    )
    return probe


@pytest.mark.parametrize(
    ("sizes", "starts"),
    [
        (SIZES, [0, 4, 8]),
        ({"0ep": 8, "3ep": 9, "70st": 10, "95%": 11}, [0, 3, 7, 10]),
        ({"0st": 8, "44%": 9, "46%": 10}, [0, 4, 5]),
        ({"0%": 8}, [0]),
    ],
)
def test_a_size_begins_with_an_epoch(sizes: dict[str, Any], starts: list[int]) -> None:
    found = Progressive(sizes).starts(per_epoch=10, epochs=10 if starts[-1] < 10 else 11)
    assert [start for start, _ in found] == starts
    assert [size for _, size in found] == [read_size("", size) for size in sizes.values()]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, r"data.progressive is \{\}: give sizes by duration"),
        (224, "data.progressive is 224: give sizes by duration"),
        ({"50%": 8}, "data.progressive begins with 50%: the first size must be of 0%"),
        ({"0%": 8, "5": 9}, "data.progressive=5 is no duration"),
        ({0: 8}, "data.progressive=0 is no duration"),
        ({"0%": 8.5}, r"data.progressive.0% is 8.5: give pixels"),
        ({"0%": [8, 8, 8]}, r"data.progressive.0% is \[8, 8, 8\]: give pixels"),
        ({"0%": 8, "5ep": 0}, r"data.progressive.5ep is 0: give pixels"),
        ({"0%": 8, "15st": 9}, "data.progressive=15st is 15 updates, and an epoch has 10: it must be whole epochs"),
        ({"0%": 8, "0.5ep": 9}, "data.progressive=0.5ep is 5 updates"),
        ({"0%": 8, "6ep": 9, "60%": 10}, "60% is epoch 6 of 10, .*the entry before it begins at 6"),
        ({"0%": 8, "6ep": 9, "2ep": 10}, "2ep is epoch 2 of 10, .*give them in order"),
        ({"0%": 8, "4%": 9}, "4% is epoch 0 of 10"),
        ({"0%": 8, "100%": 9}, "100% is epoch 10 of 10, .*no image would have its size"),
        ({"0%": 8, "30ep": 9}, "30ep is epoch 30 of 10"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_their_key(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Progressive(sizes).starts(per_epoch=10, epochs=10)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_has_the_size_of_its_epoch_and_evaluation_its_own(noise: Make, workers: int) -> None:
    probe = fit(noise("deit", progressive=SIZES, num_workers=workers), limit_val_batches=1.0)
    assert probe.trained == [(epoch, size) for epoch, size in enumerate(OF_5_EPOCHS) for _ in range(2)]
    assert probe.evaluated == {(8, 8)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [3, 4, 5, 8])
def test_a_run_cut_anywhere_goes_on_in_its_size(noise: Make, tmp_path: Path, workers: int, cut: int) -> None:
    path = tmp_path / "cut.ckpt"
    plain = fit(noise("deit", progressive=SIZES), SaveAt(path, batch=cut))
    again = fit(noise("deit", progressive=SIZES, num_workers=workers), resume=path)
    assert again.trained == plain.trained[cut:]
    assert torch.equal(again.layer.weight, plain.layer.weight)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_longer_run_with_the_same_data_module_has_its_sizes_later(noise: Make, workers: int) -> None:
    data = noise(progressive=SIZES, num_workers=workers)
    assert fit(data).trained[4] == (2, (6, 8))
    assert fit(data, epochs=10).trained[4:8] == [(2, (4, 4)), (2, (4, 4)), (3, (4, 4)), (3, (4, 4))]


def test_the_size_of_the_data_set_changes_no_bit(noise: Make) -> None:
    plain, named = fit(noise("deit")), fit(noise("deit", progressive={"0%": 8}))
    assert plain.trained == named.trained
    assert torch.equal(plain.layer.weight, named.layer.weight)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_model_of_one_size_is_refused_before_the_first_batch(noise: Make, dynamic: bool) -> None:
    probe = Sizes()
    probe.model = torch.nn.Identity()
    probe.model.dynamic = dynamic
    run = trainer(epochs=5, limit_train_batches=2)
    if dynamic:
        run.fit(probe, datamodule=noise(progressive=SIZES))
        return
    with pytest.raises(ConfigError, match=r"4 x 4, 6 x 8, 12 x 12, .*one size alone: add model.dynamic=true"):
        run.fit(probe, datamodule=noise(progressive=SIZES))
    assert probe.trained == []
